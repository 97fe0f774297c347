"""Several runs beside each other: the step that each one is about, and whether it differs from the first run's beyond doubt."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import UsageError
from ..gate.gate import check_gate
from ..gate.policy import Limit, Policy
from ..gate.result_files import interval_text
from ..measurement_files import load_measurement, write_text
from .cells import Cell, Column, Table
from .pages import html_page, markdown_page
from .report import Record, figure_text, is_alike, plots_of, read_ledger, steps_table

__all__ = ["compare_runs", "write_comparison", "write_sweep_report"]

LIMITS = {"accuracy": Limit(max_drop=0.0), "perplexity": Limit(max_ratio=1.0)}
"""What is asked of each kind of metric that has samples: that nothing was lost."""
WORDS = {"pass": "no worse", "fail": "worse", "inconclusive": "open"}


def compare_runs(names: Sequence[str]) -> dict[str, Any]:
    """Compare runs, each `RUN` (its gate's candidate, or its last step) or `RUN:STEP`, with the first of them.

    Returns:
        `rows`: name, kind, metrics, context and details of each; `against_first`: for each but the first, a verdict or the
        reason why there is none, by metric.

    Raises:
        UsageError: fewer than two, or a run or step that is not there.
    """
    if len(names) < 2:
        raise UsageError("one run is nothing to compare", "give two or more: RUN or RUN:STEP")
    rows = [_row(name) for name in names]
    measured = [load_measurement(row["from"]) for row in rows]
    return {"rows": rows, "against_first": [_against(one, measured[0]) for one in measured[1:]]}


def _row(name: str) -> dict[str, Any]:
    folder, _, wanted = name.rpartition(":")
    if not folder or (Path(name) / "ledger.json").is_file():
        folder, wanted = name, ""
    ledger = read_ledger(Path(folder) / "ledger.json")
    step = end_step(ledger, wanted)
    if step is None:
        raise UsageError(
            f"{name}: no such step", f"steps: {', '.join(one['name'] for one in ledger['steps'])}"
        )
    run = Path(folder).resolve().name
    return {**step, "name": f"{run}:{step['name']}", "from": f"{folder}:{step['name']}"}


def end_step(ledger: Record, wanted: str = "") -> dict[str, Any] | None:
    """The step called `wanted`, or else the gate's candidate, or the last one."""
    steps = ledger.get("steps") or [None]
    name = wanted or (ledger.get("gate") or {}).get("candidate")
    return next(
        (one for one in steps if one and one["name"] == name), None if wanted else steps[-1]
    )


def _against(one: dict[str, Any], first: dict[str, Any]) -> dict[str, dict[str, Any]]:
    shared = [
        m
        for m in one["metrics"]
        if m in first["metrics"] and m.count("/") == 1 and m.partition("/")[0] in LIMITS
    ]
    found: dict[str, dict[str, Any]] = {}
    for metric in shared:
        try:
            gate = check_gate(one, first, Policy(limits={metric: LIMITS[metric.partition("/")[0]]}))
        except UsageError as error:
            found[metric] = {"unlike": str(error).rpartition(": ")[2]}
        else:
            check = gate["checks"][0]
            found[metric] = {
                key: check[key] for key in ("observed", "interval", "verdict", "samples")
            }
    return found


def differences_table(
    names: Sequence[str], against_first: Sequence[Mapping[str, Mapping[str, Any]]]
) -> Table | None:
    """A row for each run but the first and each metric: the drop or ratio, its interval, and what that says."""
    columns = [
        Column("run", numeric=False),
        Column("metric", numeric=False),
        Column("drop or ratio"),
        Column("interval"),
        Column("verdict", numeric=False),
    ]
    rows = []
    for name, found in zip(names, against_first, strict=True):
        for metric, one in found.items():
            if "unlike" in one:
                rows.append(
                    [
                        Cell(name),
                        Cell(metric),
                        Cell("–"),
                        Cell("–"),
                        Cell(f"not comparable: {one['unlike']}"),
                    ]
                )
                continue
            observed = (
                one["observed"]
                if one["observed"] is not None and math.isfinite(one["observed"])
                else None
            )
            tone = {"pass": "good", "fail": "bad"}.get(one["verdict"], "")
            text = "–" if observed is None else f"{observed:.4f}"
            rows.append(
                [
                    Cell(name),
                    Cell(metric),
                    Cell(text),
                    Cell(interval_text(one)),
                    Cell(WORDS[one["verdict"]], tone=tone),
                ]
            )
    return Table(columns, rows) if rows else None


def write_comparison(
    compared: Mapping[str, Any], html: Path | None, markdown: Path | None, command: str
) -> list[Path]:
    """Write a comparison as a page, as Markdown, or both; their paths."""
    rows = compared["rows"]
    names = [row["name"] for row in rows]
    unlike = [
        row["name"]
        for row in rows[1:]
        if not all(is_alike(row, rows[0], metric) for metric in row["metrics"])
    ]
    remarks = (
        [f"Measured under other conditions than the first, in part: {', '.join(unlike)}."]
        if unlike
        else []
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
    }
    return _write(view, rows, html, markdown)


def _write(
    view: dict[str, Any], rows: Sequence[Record], html: Path | None, markdown: Path | None
) -> list[Path]:
    written = []
    if html:
        bare = [
            {**row, "details": {}} for row in rows
        ]  # what a step tells of itself belongs to its own report
        write_text(html, html_page("comparison.html", plots=plots_of(bare, bare[0]), **view))
        written.append(html)
    if markdown:
        write_text(markdown, markdown_page("comparison.md", **view))
        written.append(markdown)
    return written


def write_sweep_report(out: Path, sweep: Mapping[str, Any]) -> list[Path]:
    """report.html and report.md of a sweep: every trial with what it varied, the front, the chosen one."""
    objectives = [objective["metric"] for objective in sweep["objectives"]]
    keys = list(dict.fromkeys(key for trial in sweep["trials"] for key in trial["parameters"]))
    columns = [
        Column("trial"),
        *(Column(key.rpartition(".")[2], key, numeric=False) for key in keys),
    ]
    columns += [
        *(Column(metric.replace("/", " ", 1)) for metric in objectives),
        Column("gate", numeric=False),
        Column("", numeric=False),
    ]
    rows, runs = [], []
    for number, trial in enumerate(sweep["trials"]):
        failed = (trial["reason"].splitlines() or [""])[0][:80]
        role = (
            "chosen" if number == sweep["chosen"] else "on the front" if trial["front"] else failed
        )
        cells = [Cell(str(trial["parameters"].get(key, "–"))) for key in keys]
        values = [Cell(figure_text(m, trial["values"].get(m), unit=True)) for m in objectives]
        tone = "good" if number == sweep["chosen"] else ""
        rows.append(
            [
                Cell(str(number + 1)),
                *cells,
                *values,
                Cell(trial["verdict"] or "–"),
                Cell(role, tone=tone),
            ]
        )
        ledger = out / trial["run"] / "ledger.json"
        step = end_step(read_ledger(ledger)) if trial["values"] and ledger.is_file() else None
        if step:
            runs.append({**step, "name": str(number + 1), "details": {}})
    front = sum(trial["front"] for trial in sweep["trials"])
    view = {
        "title": f"Sweep of {sweep['name']}",
        "heading": "Trials",
        "rows": Table(columns, rows),
        "command": sweep["command"],
        "summary": f"{len(rows)} trials, {front} on the front; trial {sweep['chosen'] + 1} is nearest to the best of everything",
        "remarks": [
            "On the front: no other trial is as good in every objective and better in one. Every trial is a run with a report."
        ],
    }
    return _write(view, runs, out / "report.html", out / "report.md")
