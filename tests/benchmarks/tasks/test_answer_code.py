"""Of an answer, the function under test is run, and not what the model wrote behind it."""

from __future__ import annotations

from edgewright.benchmarks.tasks.answer_code import needed_code
from edgewright.benchmarks.tasks.programs import Exercise, judge
from edgewright.benchmarks.tasks.sandbox import run_program

TESTS = "assert double(4) == 8"


def runs(code: str) -> bool:
    return run_program(f"{needed_code(code, TESTS)}\n{TESTS}", 5.0).passed


def test_wrong_checks_of_the_model_are_not_run() -> None:
    answer = "def double(x):\n    return 2 * x\n\n"
    assert runs(f"{answer}assert double(3) == 7\n")
    assert runs(f"{answer}def check():\n    assert double(3) == 7\n\ncheck()\n")
    assert runs(f"{answer}print(double(input()))\n")
    assert runs(f"{answer}while True:\n    pass\n")


def test_what_the_function_uses_is_kept() -> None:
    assert runs(
        "import math\nFACTOR: int = 2\nUNUSED = 1 / 1\n\n"
        "class Scale:\n    def by(self, x):\n        return times(x)\n\n"
        "def times(x):\n    return math.prod((FACTOR, x))\n\n"
        "def double(x):\n    return Scale().by(x)\n"
    )


def test_an_import_that_may_fail_is_kept() -> None:
    assert runs(
        "try:\n    import no_such_package as lib\nexcept ImportError:\n    import math as lib\n\n"
        "def double(x):\n    return lib.prod((2, x))\n"
    )


def test_the_last_definition_counts_and_earlier_ones_may_be_used() -> None:
    assert runs("def double(x):\n    return x\n\ndef double(x):\n    return x + x\n")


def test_an_answer_that_was_cut_off_behind_its_function() -> None:
    assert runs("def double(x):\n    return 2 * x\n\nprint([double(1), doub")
    assert not runs("def double(x):\n    return (2 *")


def test_a_wrong_function_stays_wrong() -> None:
    assert not runs("def double(x):\n    return 3 * x\n")
    assert not runs("def triple(x):\n    return 3 * x\n")


def test_a_whole_program() -> None:
    exercise = Exercise("", "def double(x):\n", TESTS)
    text = "```python\ndef double(x):\n    return x * 2\n\nassert double(0) == 1\n```"
    assert judge(exercise, text).passed
