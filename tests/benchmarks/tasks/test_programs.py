"""Code tasks: what a chat model is asked, and that its program runs with the tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from scripted_backend import Scripted, lines, problems

from edgewright.benchmarks.measure import measure
from edgewright.benchmarks.options import EvaluateOptions
from edgewright.benchmarks.tasks.programs import (
    Exercise,
    code_of,
    judge,
    read_exercises,
    solve_exercises,
)
from edgewright.benchmarks.tasks.writers import LocalWriter
from edgewright.checkpoints.tokenizer import load_tokenizer
from edgewright.errors import UsageError

REASONER = Path(__file__).parents[3] / "demo" / "model"
BEGUN = "import math\n\ndef area(r):\n"
HUMAN = {
    "prompt": BEGUN,
    "test": "def check(f):\n    assert abs(f(2) - 12.566) < 1e-2",
    "entry_point": "area",
}


def test_programs_are_run_with_their_tests(make_model, tmp_path: Path) -> None:
    file = lines(
        tmp_path / "code.jsonl",
        HUMAN,
        {**HUMAN, "prompt": BEGUN.replace("r):", "radius):")},
        {"text": "Write double(x).", "test_list": ["assert double(4) == 8"]},
    )
    tokenizer = load_tokenizer(make_model("llama"))
    tokenizer.chat_template += "{# </think> #}"  # so that a reply begins where it likes
    replies = {
        "(r)": "Thus:\n```python\ndef area(r):\n    return math.pi * r ** 2\n```",
        "(radius)": "    return radius\n\nprint(area(1))",
        "double": "```\ndef double(x):\n    return 2 * x\n```",
    }
    backend: Any = Scripted(tokenizer, replies)
    answers, _ = solve_exercises(
        LocalWriter(backend, tokenizer), "code", read_exercises(problems(file)), 10, 200, workers=2
    )
    assert [a.correct for a in answers] == [True, False, True]
    with pytest.raises(UsageError, match="not a code task"):
        read_exercises(problems(lines(tmp_path / "odd.jsonl", {"prompt": "def f():"})))


def test_the_answer_of_a_chat_model_begins_a_code_block(make_model, tmp_path: Path) -> None:
    """The prompt holds the beginning, so that the reply is bare code up to the closing fence."""
    file = lines(tmp_path / "code.jsonl", HUMAN, {**HUMAN, "prompt": BEGUN.replace("r):", "q):")})
    tokenizer = load_tokenizer(make_model("llama"))
    assert tokenizer.chat_template
    replies = {
        "(r)": "def area(r):\n    return math.pi * r ** 2\n```\nIt is a circle.",
        "(q)": "def area(q):\n    return q",
    }
    backend: Any = Scripted(tokenizer, replies)
    answers, _ = solve_exercises(
        LocalWriter(backend, tokenizer), "code", read_exercises(problems(file)), 10, 200, workers=1
    )
    assert [a.correct for a in answers] == [True, False]
    assert all(prompt.endswith("```python\n") for prompt in backend.prompts)
    assert answers[0].text.startswith("```python\ndef area(r)")
    tokenizer.chat_template += "{# </think> #}"
    backend.prompts.clear()
    writer = LocalWriter(backend, tokenizer)
    solve_exercises(writer, "code", read_exercises(problems(file)), 10, 200, workers=1)
    assert not any(prompt.endswith("```python\n") for prompt in backend.prompts), (
        "a model that thinks first must be free to do so"
    )


def test_helpers_of_the_prompt_are_there_for_the_tests() -> None:
    begun = "import math\n\ndef poly(x):\n    return x\n\ndef zero(x):\n"
    exercise = Exercise("", begun, "assert zero(poly(0)) == 0")
    assert judge(exercise, "```python\ndef zero(x):\n    return 0\n```").passed


def test_a_completion_ends_with_its_function() -> None:
    exercise = Exercise("", BEGUN, "assert area(0) == 0")
    assert code_of(exercise, "    return 0\n\ndef other():\n    return") == f"{BEGUN}    return 0\n"


@pytest.mark.parametrize("field", ["prompt", "test", "entry_point", "text", "test_list"])
def test_half_of_a_surrogate_pair_is_refused(field: str, tmp_path: Path) -> None:
    """JSON can hold it, but neither a tokenizer nor a program can."""
    row = {**HUMAN} if field in HUMAN else {"text": "Write f.", "test_list": ["assert f(1)"]}
    row[field] = [*row[field], "\ud800"] if field == "test_list" else f"{row[field]}\ud800"
    file = lines(tmp_path / "odd.jsonl", {"prompt": "f", "test_list": ["assert f()"]}, row)
    with pytest.raises(UsageError, match=rf"row 2: field `{field}` has half of a surrogate pair"):
        read_exercises(problems(file))


def test_code_tasks_have_to_be_allowed(make_model, tmp_path: Path) -> None:
    options = EvaluateOptions(
        tasks=(f"code:{lines(tmp_path / 'code.jsonl', HUMAN, HUMAN)}",), latency=None
    )
    with pytest.raises(UsageError, match="runs programs") as error:
        measure(make_model("llama"), options)
    assert "--allow-code" in error.value.hint
