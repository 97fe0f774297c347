"""The end of a run: verdict, steps, device and next command on one screen."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from report_ledger import make_ledger
from rich.console import Console
from rich.text import Text

from edgewright.commands.next_commands import after_run
from edgewright.commands.run_end import RunEnd

SCREEN = 20
LONG = "its layers have a size that no kernel of this device takes; " * 4


def check(metric: str, verdict: str, **fields: Any) -> dict[str, Any]:
    """A check of a gate, as a run of today writes it."""
    plain = {"baseline": 0.97, "candidate": 0.95, "observed": 0.9794, "limit": "ratio >= 0.92"}
    sampled = {"interval": [0.96, 0.99], "samples": 200, "samples_needed": None, "note": ""}
    return {"metric": metric, "verdict": verdict, **plain, **sampled, **fields}


def as_made() -> dict[str, Any]:
    """A run that passed."""
    ledger = make_ledger()
    names = ("accuracy/reasoning", "top1_agreement/reasoning", "size_bytes")
    checks = [check(name, "pass") for name in names]
    ledger["gate"] = {**ledger["gate"], "verdict": "pass", "checks": checks}
    return ledger


def failed() -> dict[str, Any]:
    """A gate of many checks, of which the last failed."""
    ledger = as_made()
    ledger["gate"]["checks"] *= 3
    ledger["gate"]["checks"].append(check("kl/reasoning", "fail", note="too few rows"))
    ledger["gate"]["verdict"] = "fail"
    return ledger


def without_gate() -> dict[str, Any]:
    ledger = as_made()
    del ledger["gate"]
    return ledger


def long() -> dict[str, Any]:
    """Fourteen steps, of which the candidate is in the middle."""
    ledger = as_made()
    last = ledger["steps"][-1]
    ledger["steps"] += [last | {"name": f"{last['name']}-{n}"} for n in range(14)]
    return ledger


def refused() -> dict[str, Any]:
    ledger = as_made()
    for row in ledger["plan"]["rows"]:
        row["violations"] = [LONG, "another limit"]
        row["refused"] = [f"{row['step']} is refused: {LONG}"]
    return ledger


LEDGERS = [as_made, failed, without_gate, long, refused]


def printed(item: Any, width: int) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(item, highlight=False)
    return console.export_text()


@pytest.mark.parametrize("width", [80, 140])
@pytest.mark.parametrize("make", LEDGERS)
def test_the_end_of_a_run_fits_on_one_screen(make: Any, width: int) -> None:
    ledger = make()
    text = printed(RunEnd(ledger), width)
    assert max(map(len, text.splitlines())) <= width
    ends = [f"next: {after_run(ledger, Path('runs/demo'))}", "report: runs/demo/report.html"]
    whole = text + "".join(printed(Text(end), width) for end in ends)
    assert len(whole.splitlines()) <= SCREEN


@pytest.mark.parametrize("width", [80, 140])
@pytest.mark.parametrize("make", LEDGERS)
def test_it_has_the_verdict_the_baseline_and_the_candidate(make: Any, width: int) -> None:
    ledger = make()
    end = RunEnd(ledger)
    text = printed(end, width)
    first = text.splitlines()[0]
    assert first.startswith(
        f"gate: {ledger['gate']['verdict'].upper()}" if "gate" in ledger else "no gate"
    )
    rows = [line.split()[0] for line in text.splitlines() if line.strip()]
    assert "baseline" in rows and end.candidate in rows
    shown = [step["name"] for step in ledger["steps"] if step["name"] in rows]
    more = f"{len(ledger['steps']) - len(shown)} more steps in the report"
    assert (more in text) == (len(shown) < len(ledger["steps"]))
    accuracy = next(
        s["metrics"]["accuracy/reasoning"] for s in ledger["steps"] if s["name"] == end.candidate
    )
    assert f"{accuracy:.3f} ±" in text


def test_a_check_that_failed_comes_first_and_is_explained() -> None:
    lines = printed(RunEnd(failed()), 140).splitlines()
    assert lines[1].startswith("  fail") and "too few rows" in lines[1]
    assert "more checks in the report" in "\n".join(lines)


@pytest.mark.parametrize("width", [80, 140])
def test_the_first_refusal_is_never_cut(width: int) -> None:
    ledger = refused()
    text = " ".join(printed(RunEnd(ledger), width).split())
    candidate = RunEnd(ledger).candidate
    assert f"refused: {candidate} is refused: {LONG.strip()}" in text
    assert "in the report" in text


def test_a_narrow_terminal_leaves_out_columns_and_never_cuts_a_number() -> None:
    narrow = printed(RunEnd(as_made()), 80)
    wide = printed(RunEnd(as_made()), 140)
    assert "params M" in wide and "params M" not in narrow
    for heading in ("exact match", "size MB", "decode tok/s"):
        assert heading in narrow
    assert "…" not in narrow + wide
