"""Files of tasks: a value that is no text is refused by its row, and byte-order marks are read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgewright.benchmarks.tasks.multiple_choice import read_choices
from edgewright.benchmarks.tasks.programs import read_exercises
from edgewright.benchmarks.tasks.questions import read_pairs
from edgewright.data.sources import Source
from edgewright.errors import UsageError

PAIR = {"question": "2 + 3?", "answer": "5"}
CHOICE = {"question": "2 + 3?", "choices": ["5", "6"], "answer": 0}
PROGRAM = {"text": "Add.", "test_list": ["assert f(2) == 3"]}
READERS: dict[str, Callable[[Source], Any]] = {
    "qa": read_pairs,
    "choice": read_choices,
    "code": read_exercises,
}


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("qa", PAIR, {**PAIR, "answer": 5}),
        ("qa", PAIR, {**PAIR, "question": None}),
        ("qa", PAIR, {**PAIR, "answer": " "}),
        ("qa", PAIR, {"text": "no question"}),
        ("qa", PAIR, {"messages": [{"role": "assistant", "content": "5"}]}),
        ("choice", CHOICE, {**CHOICE, "choices": ["5", 6]}),
        ("choice", CHOICE, {**CHOICE, "choices": ["5", None]}),
        ("choice", CHOICE, {**CHOICE, "choices": ["5", ["6"]]}),
        ("code", PROGRAM, {**PROGRAM, "test_list": [None]}),
        ("code", PROGRAM, {**PROGRAM, "text": 5}),
    ],
)
def test_no_value_becomes_the_text_of_a_problem(
    kind: str, good: dict[str, Any], bad: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(f"{json.dumps(good)}\n{json.dumps(bad)}\n")
    with pytest.raises(UsageError, match=r"a\.jsonl, row 2: ") as caught:
        READERS[kind](Source.parse(f"jsonl:{file}"))
    assert caught.value.hint
    assert "--bad-rows" not in caught.value.hint  # a problem is never skipped
    file.write_bytes(b"\xef\xbb\xbf" + f"{json.dumps(good)}\r\n\r\n{json.dumps(good)}".encode())
    assert len(READERS[kind](Source.parse(f"jsonl:{file}"))) == 2
