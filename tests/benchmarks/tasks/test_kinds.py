"""The kinds of tasks are declared once: parsing, help and messages agree."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgewright.benchmarks.options import EvaluateOptions
from edgewright.benchmarks.tasks.kinds import BUILTIN, FILES, KINDS, USAGE
from edgewright.benchmarks.tasks.task import Task
from edgewright.errors import UsageError


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_parsed_and_explained(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "questions.jsonl"
    file.write_text("{}")
    name = str(file) if kind in FILES else "some"
    assert Task.parse(BUILTIN if kind == BUILTIN else f"{kind}:{name}").kind == kind
    assert KINDS[kind] in str(EvaluateOptions.model_fields["tasks"].description)


@pytest.mark.parametrize("text", ["", "nope", "nope:x", "qa", "qa:", "gym", "reasoning:x"])
def test_what_is_no_task_is_answered_with_all_kinds(text: str) -> None:
    with pytest.raises(UsageError, match="no such task") as caught:
        Task.parse(text)
    assert caught.value.hint == f"tasks: {USAGE}"


@pytest.mark.parametrize("text", [*(f"{kind}:no.jsonl" for kind in FILES), "lm-eval:no.yaml"])
def test_a_file_that_is_not_there(text: str) -> None:
    with pytest.raises(UsageError, match="no such file: no"):
        Task.parse(text)
