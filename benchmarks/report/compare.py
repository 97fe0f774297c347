"""Compares several runs: one step of each, and whether it differs significantly from the first."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...checkpoints.atomic_files import write_text
from ...checkpoints.outputs import LEDGER, REPORTS
from ...errors import UsageError
from ..gate.result_files import interval_text
from ..ledger_files import read_ledger
from ..measurement_files import load_measurement
from ..metrics import find, format_value
from ..number_format import DASH
from .differences import differences
from .findings import compare_with_first
from .ledger_view import Record, are_comparable, name_of, part, steps_of
from .pages import html_page, markdown_page
from .report import plots_of
from .report_table import ReportCell, ReportColumn, ReportTable
from .step_tables import steps_table

__all__ = ["compare_runs", "write_comparison", "write_sweep_report"]

WORDS = {"pass": "no worse", "fail": "worse", "inconclusive": "open"}
"""A verdict of the gate, as the answer to `is it worse than the first run?`"""
TONES = {"pass": "good", "fail": "bad"}
DIFFERENCE_COLUMNS = (
    ReportColumn("run", numeric=False),
    ReportColumn("metric", numeric=False),
    ReportColumn("drop or ratio"),
    ReportColumn("interval"),
    ReportColumn("verdict", numeric=False),
)


def compare_runs(names: Sequence[str]) -> dict[str, Any]:
    """Compare runs with the first of them.

    Args:
        names: `RUN`, which means its gate's candidate or else its last step, or `RUN:STEP`.

    Returns:
        `rows`: name, kind, metrics, context and details of each run. `against_first`: for each run
        but the first, by metric, a verdict or the reason why there is none.

    Raises:
        UsageError: fewer than two names, or a run or step that does not exist.
    """
    if len(names) < 2:
        raise UsageError("one run is nothing to compare", "give two or more: RUN or RUN:STEP")
    rows = _named([_row(name) for name in names])
    measured = [load_measurement(row["from"]) for row in rows]
    return {"rows": rows, "against_first": [differences(one, measured[0]) for one in measured[1:]]}


def _row(name: str) -> dict[str, Any]:
    folder, _, wanted = name.rpartition(":")
    if not folder or (Path(name) / LEDGER).is_file():
        folder = name
        wanted = ""
    ledger = read_ledger(Path(folder) / LEDGER)
    step = end_step(ledger, wanted)
    if step is None:
        steps = ", ".join(map(name_of, steps_of(ledger)))
        raise UsageError(f"{name}: no such step", f"steps: {steps}")
    return {**step, "from": f"{folder}:{name_of(step)}"}


def _named(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, each with a name of its own: run and step, and a number if it was given before."""
    folders = [Path(row["from"].rpartition(":")[0]).resolve() for row in rows]
    names = [
        f"{_short(folder, folders)}:{name_of(row)}"
        for folder, row in zip(folders, rows, strict=True)
    ]
    times = [names[: at + 1].count(name) for at, name in enumerate(names)]
    return [
        {**row, "name": name if count == 1 else f"{name} ({count})"}
        for row, name, count in zip(rows, names, times, strict=True)
    ]


def _short(folder: Path, folders: Sequence[Path]) -> str:
    """The shortest end of a path that no other one of these paths has."""
    for count in range(1, len(folder.parts)):
        end = folder.parts[-count:]
        if all(other == folder or other.parts[-count:] != end for other in folders):
            return "/".join(end)
    return str(folder)


def end_step(ledger: Record, wanted: str = "") -> dict[str, Any] | None:
    """The step called `wanted`, or else the gate's candidate, or the last one."""
    steps = [dict(step) for step in steps_of(ledger)] or [None]
    name = wanted or part(ledger, "gate").get("candidate")
    found = next((step for step in steps if step and step.get("name") == name), None)
    return found if found or wanted else steps[-1]


def differences_table(
    names: Sequence[str], against_first: Sequence[Mapping[str, Mapping[str, Any]]]
) -> ReportTable | None:
    """One row per run and metric: the drop or ratio, its interval, and the verdict.

    Args:
        names: of the runs, without the first one.
        against_first: their part of `compare_runs`.
    """
    rows = [
        [ReportCell(run), ReportCell(metric), *_difference_cells(difference)]
        for run, found in zip(names, against_first, strict=True)
        for metric, difference in found.items()
    ]
    return ReportTable(DIFFERENCE_COLUMNS, rows) if rows else None


def _difference_cells(difference: Mapping[str, Any]) -> list[ReportCell]:
    if "unlike" in difference:
        reason = ReportCell(f"not comparable: {difference['unlike']}")
        return [ReportCell(DASH), ReportCell(DASH), reason]
    observed = difference["observed"]
    known = observed is not None and math.isfinite(observed)
    verdict = difference["verdict"]
    return [
        ReportCell(f"{observed:.4f}" if known else DASH),
        ReportCell(interval_text(difference)),
        ReportCell(WORDS[verdict], tone=TONES.get(verdict, "")),
    ]


def write_comparison(
    compared: Mapping[str, Any], html: Path | None, markdown: Path | None, command: str
) -> list[Path]:
    """Write a comparison as an HTML page, as Markdown, or both; returns the paths."""
    rows = compared["rows"]
    names = [row["name"] for row in rows]
    unlike = [row["name"] for row in rows[1:] if not _all_comparable(row, rows[0])]
    remarks = []
    if unlike:
        remarks.append(
            f"Partly measured under other conditions than the first run: {', '.join(unlike)}."
        )
    view: dict[str, Any] = {
        "title": " and ".join(names) if len(names) < 4 else f"{len(names)} runs",
        "summary": f"{len(names)} models",
        "heading": "Runs",
        "rows": steps_table(rows, {names[0]: "first"}),
        "remarks": remarks,
        "first": names[0],
        "command": command,
        "differences": differences_table(names[1:], compared["against_first"]),
        "comparisons": [
            compare_with_first(row, rows[0], found)
            for row, found in zip(rows[1:], compared["against_first"], strict=True)
        ],
    }
    return _write(view, rows, html, markdown)


def _all_comparable(row: Record, first: Record) -> bool:
    shared = (name for name in row["metrics"] if name in first["metrics"] and find(name))
    return all(are_comparable(row, first, name) for name in shared)


def _write(
    view: dict[str, Any], rows: Sequence[Record], html: Path | None, markdown: Path | None
) -> list[Path]:
    written = []
    if html:
        bare = [{**row, "details": {}} for row in rows]  # a step's own charts are in its report
        parents = {name_of(row): view["first"] for row in rows[1:]} if "first" in view else {}
        plots = plots_of(bare, bare[0], parents, "the first run")
        write_text(html, html_page("comparison.html", plots=plots, **view))
        written.append(html)
    if markdown:
        write_text(markdown, markdown_page("comparison.md", **view))
        written.append(markdown)
    return written


def write_sweep_report(out: Path, sweep: Mapping[str, Any]) -> list[Path]:
    """Write report.html and report.md of a sweep: all trials, the Pareto front, the chosen one."""
    trials = sweep["trials"]
    runs = []
    for number, trial in enumerate(trials, 1):
        ledger = out / trial["run"] / LEDGER
        step = end_step(read_ledger(ledger)) if trial["values"] and ledger.is_file() else None
        if step:
            runs.append({**step, "name": str(number), "details": {}})
    front = sum(trial["front"] for trial in trials)
    view = {
        "title": f"Sweep of {sweep['name']}",
        "heading": "Trials",
        "rows": _trials_table(sweep),
        "command": sweep["command"],
        "summary": f"{len(trials)} trials, {front} on the Pareto front;"
        f" trial {sweep['chosen'] + 1} is nearest to the best value of every objective",
        "remarks": [
            "On the Pareto front: no other trial is at least as good in every objective and better"
            " in one. Every trial is a run with its own report."
        ],
    }
    return _write(view, runs, *(out / name for name in REPORTS))


def _trials_table(sweep: Mapping[str, Any]) -> ReportTable:
    objectives = [objective["metric"] for objective in sweep["objectives"]]
    keys = list(dict.fromkeys(key for trial in sweep["trials"] for key in trial["parameters"]))
    columns = [
        ReportColumn("trial"),
        *(ReportColumn(key.rpartition(".")[2], key, numeric=False) for key in keys),
        *(ReportColumn(metric.replace("/", " ", 1)) for metric in objectives),
        ReportColumn("gate", numeric=False),
        ReportColumn("", numeric=False),
    ]
    rows = []
    for number, trial in enumerate(sweep["trials"]):
        is_chosen = number == sweep["chosen"]
        values = trial["values"]
        texts = [
            str(number + 1),
            *(str(trial["parameters"].get(key, DASH)) for key in keys),
            *(format_value(metric, values.get(metric), unit=True) for metric in objectives),
            trial["verdict"] or DASH,
        ]
        role = ReportCell(_role(trial, is_chosen), tone="good" if is_chosen else "")
        rows.append([*map(ReportCell, texts), role])
    return ReportTable(columns, rows)


def _role(trial: Mapping[str, Any], is_chosen: bool) -> str:
    """What became of a trial: chosen, on the front, or the reason why it failed."""
    if is_chosen:
        return "chosen"
    if trial["front"]:
        return "on the front"
    return (trial["reason"].splitlines() or [""])[0][:80]
