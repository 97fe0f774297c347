"""Programs that ran without confinement are announced; how they ran does not stop comparisons."""

from __future__ import annotations

from typing import Any

import pytest

from edgewright.benchmarks.metrics import why_unlike
from edgewright.benchmarks.report.report import render_markdown
from edgewright.benchmarks.tasks.sandbox import ProgramResult
from edgewright.benchmarks.unconfined import unconfined_tasks

LANDLOCK = ("Landlock (ABI 7)", "seccomp", "limits")
WARNING = "the programs could read and change your files"


@pytest.mark.parametrize(
    ("protections", "confined"),
    [
        (("bubblewrap", *LANDLOCK), True),
        (("namespaces", *LANDLOCK), True),
        (LANDLOCK, True),
        (("namespaces", "limits"), True),
        (("no root of its own", "seccomp", "limits"), False),
        (("limits",), False),
        ((), False),
    ],
)
def test_what_confined_programs_is_said(protections: tuple[str, ...], confined: bool) -> None:
    confinement = ProgramResult(True, "", protections).confinement
    assert all(one in confinement for one in protections)
    found = unconfined_tasks([{"sandbox/HumanEval": confinement, "threads": 2}])
    assert len(found) == (not confined)
    assert all(note.startswith("HumanEval: ") and WARNING in note for note in found)


def test_it_is_in_the_report_once() -> None:
    context = {"sandbox/mbpp": "none (limits)"}
    steps: list[dict[str, Any]] = [
        {"name": name, "kind": "quantize", "metrics": {"accuracy/mbpp": 0.5}, "context": context}
        for name in ("one", "two")
    ]
    assert render_markdown({"steps": steps}).count(WARNING) == 1


def test_results_with_different_confinement_are_comparable() -> None:
    one = {"problems_hash/mbpp": "a", "problems/mbpp": 4, "backend": "torch", "device": "cpu"}
    one |= {"dtype/mbpp": "float32", "max_new_tokens/mbpp": 9, "torch": "2", "transformers": "5"}
    two = one | {"sandbox/mbpp": "none (limits)"}
    one |= {"sandbox/mbpp": "bubblewrap, seccomp, limits"}
    assert why_unlike("accuracy/mbpp", one, two) == ""
    assert why_unlike("accuracy/mbpp", one, two | {"problems_hash/mbpp": "b"})
