"""Which code of an answer is run, however its blocks are fenced."""

from __future__ import annotations

import pytest

from edgewright.benchmarks.tasks.fences import fenced_blocks
from edgewright.benchmarks.tasks.programs import Exercise, code_of

BEGUN = 'def add(a, b):\n    """Add two numbers."""\n'
TESTS = "def check(candidate):\n    result = candidate(1, 2)\n    assert result == 3\n\ncheck(add)"
RIGHT = "def add(a, b):\n    return a + b\n"
ANSWERS = {
    "example": f"```python\n{RIGHT}```\nFor example:\n```python\nprint(add(1, 2))\n```",
    "example that stores": f"```python\n{RIGHT}```\n```python\nresult = add(1, 2)\n```",
    "output": f"```python\n{RIGHT}```\nOutput:\n```\n3\n```",
    "python3": f"```python3\n{RIGHT}```\nThis works.",
    "capital": f"```Python\n{RIGHT}```",
    "space": f"``` python\n{RIGHT}```",
    "attributes": f"```{{.python .numberLines}}\n{RIGHT}```",
    "install first": f"```bash\npip install nothing\n```\nThen:\n```python\n{RIGHT}```",
    "tildes": f"~~~python\n{RIGHT}~~~",
    "longer": f"````python\n{RIGHT}````\nIt is `add`.",
    "list": "1. Do:\n   ```python\n   def add(a, b):\n       return a + b\n   ```\n2. Run it.",
    "list marker": "1. ```python\n   def add(a, b):\n       return a + b\n   ```",
    "list marker, code at the left": f"- ```python\n{RIGHT}```",
    "inline code behind": f"```python\n{RIGHT}```\nThe type is ```int```\nand nothing else.\n",
    "inline code only": f"{RIGHT}\n# An ```int```\n",
    "Windows": f"```python\r\n{RIGHT}```\r\n".replace("\n", "\r\n").replace("\r\r", "\r"),
    "cut off": f"```python\n{RIGHT}\nprint(ad",
    "Markdown around": f"```markdown\n```python\n{RIGHT}```\nDone.\n```",
    "opened twice": f"```python\n```python\n{RIGHT}```",
    "closed in the line": f"```python\n{RIGHT.rstrip()}```\nOutput:\n```\n3\n```",
    "closed with words": f"```python\n{RIGHT}``` This adds.",
    "fence in a docstring": (
        '```python\ndef add(a, b):\n    """Add.\n\n    ```\n    add(1, 2)\n    ```\n    """\n'
        "    return a + b\n```"
    ),
    "body only": "```python\n    return a + b\n```",
}


@pytest.mark.parametrize("text", ANSWERS.values(), ids=ANSWERS)
def test_the_solution_is_found_among_the_blocks(text: str) -> None:
    names: dict[str, object] = {}
    exec(code_of(Exercise("", BEGUN, TESTS), text), names)
    add = names["add"]
    assert callable(add) and add(2, 5) == 7


def test_without_a_block_that_defines_it_python_comes_first() -> None:
    text = "```python\nx = 1\n```\n```python\nx = 2\n```\n```text\n2\n```"
    assert code_of(Exercise("", "", "assert f(1)"), text) == "x = 2\n"
    assert code_of(Exercise("", "", "assert f(1)"), "```\n1\n```\n```\n2\n```") == "2\n"


def test_the_last_of_two_solutions_counts() -> None:
    text = f"```python\n{RIGHT}```\nBetter:\n```\nadd = int.__add__\n```"
    assert "__add__" in code_of(Exercise("", "", TESTS), text)


def test_what_is_no_block() -> None:
    assert not fenced_blocks("Use ```int``` here\n``\nx\n``\nand ```x")
    tildes, ticks = fenced_blocks("~~~ a`b\n```\nx\n~~~\n````\n```\ny\n````")
    assert (tildes.info, tildes.code, ticks.code) == ("a`b", "```\nx\n", "```\ny\n")
