"""The report of a run, from its ledger alone: one self-contained HTML page, and the same in Markdown.

A part of the report is there when its data is; a metric that a step lacks is a dash. Steps that were measured on other
data, another device or other threads than the baseline keep their row in the table, and are left out of every comparison.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from ...errors import UsageError
from ..gate.result_files import interval_text
from ..measurement_files import write_text
from .cells import Cell, Column, Table
from .pages import html_page, markdown_page

__all__ = [
    "PLAIN",
    "TASKED",
    "Record",
    "figure_text",
    "is_alike",
    "metric_text",
    "names_of",
    "plots_of",
    "read_ledger",
    "render_html",
    "render_markdown",
    "steps_table",
    "write_report",
]

SCHEMA = 1
DASH = "–"
WORST_MODULES = 10
QUALITY, SPEED = (
    ("data_hash", "seq_len", "problems", "problems_hash"),
    ("device", "threads", "latency"),
)
CONDITIONS = {
    "ttft_ms": SPEED,
    "decode_tok_s": SPEED,
    "prefill_tok_s": SPEED,
    "peak_rss_bytes": ("device", "latency"),
}
UNITS = {
    "ttft_ms": "ms",
    "decode_tok_s": "tok/s",
    "prefill_tok_s": "tok/s",
    "peak_rss_bytes": "MB",
    "size_bytes": "MB",
}
TASKED = {
    "accuracy": "exact match ± stderr",
    "perplexity": "perplexity",
    "kl": "KL",
    "top1_agreement": "top-1",
}
PLAIN = {
    "ttft_ms/p50": "TTFT p50",
    "decode_tok_s/p50": "decode",
    "prefill_tok_s": "prefill",
    "peak_rss_bytes": "peak memory",
    "size_bytes": "size",
    "parameters": "parameters",
}

Record = Mapping[str, Any]


def write_report(run_dir: Path) -> list[Path]:
    """Write report.html and report.md into a run directory, each one atomically; their paths.

    Raises:
        UsageError: there is no ledger, it is damaged, or another version of edgewright wrote it.
        EdgewrightError: the report cannot be written.
    """
    ledger = read_ledger(run_dir / "ledger.json")
    paths = []
    for name, render in (("report.html", render_html), ("report.md", render_markdown)):
        write_text(run_dir / name, render(ledger))
        paths.append(run_dir / name)
    return paths


def render_html(ledger: dict[str, Any]) -> str:
    """The report as one HTML page that needs no network, no script and no other file."""
    return html_page(
        "report.html", plots=plots_of(_steps(ledger), _ends(ledger)[0]), **_view(ledger)
    )


def render_markdown(ledger: dict[str, Any]) -> str:
    """The report as Markdown, without the figures: for a pull request or a CI summary."""
    return markdown_page("report.md", **_view(ledger))


def read_ledger(path: Path) -> dict[str, Any]:
    """A ledger that this edgewright can report on.

    Raises:
        UsageError: there is none, it is damaged, or of another schema.
    """
    try:
        ledger = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"{path}: no ledger to report on: {error.strerror}", "give the --out directory of a run"
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{path}: not valid JSON: {error}",
            "run the recipe again: edgewright run RECIPE --fresh",
        ) from error
    schema = ledger.get("schema") if isinstance(ledger, dict) else None
    if schema != SCHEMA:
        message = f"{path}: ledger of schema {schema}, and this edgewright reads schema {SCHEMA}"
        raise UsageError(
            message, "report with the edgewright that wrote it, or run the recipe again"
        )
    return ledger


# Reading a ledger: anything may be absent.


def _steps(ledger: Record) -> list[Record]:
    return [step for step in ledger.get("steps") or [] if isinstance(step, Mapping)]


def _part(record: Record, key: str) -> Record:
    value = record.get(key)
    return value if isinstance(value, Mapping) else {}


def _name(step: Record) -> str:
    return str(step.get("name") or "unnamed")


def _number(value: Any) -> float | None:
    known = isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
    return value if known else None


def _metric(step: Record, name: str) -> float | None:
    return _number(_part(step, "metrics").get(name))


def names_of(steps: Sequence[Record], prefix: str) -> list[str]:
    """The metrics `prefix/...` in the order in which they first appear, without their counts and standard errors."""
    names = dict.fromkeys(
        n for step in steps for n in _part(step, "metrics") if n.startswith(prefix + "/")
    )
    return [
        n
        for n in names
        if not any(n == base + tail for base in names for tail in ("/n", "/stderr"))
    ]


def is_alike(one: Record, other: Record, name: str) -> bool:
    """Whether a metric of two steps was measured under the same conditions, as far as their contexts say."""
    kind, _, label = name.partition("/")
    keys = CONDITIONS.get(kind, QUALITY if kind in TASKED else ())
    first, second = _part(one, "context"), _part(other, "context")
    return all(
        first[k] == second[k]
        for key in keys
        for k in (key, f"{key}/{label}")
        if k in first and k in second
    )


# Writing a number.


def _significant(value: float | None, digits: int = 3) -> str:
    if value is None:
        return DASH
    if not math.isfinite(value):
        return "∞" if value > 0 else "-∞"
    if isinstance(value, int) or value == 0:
        return f"{value:,.0f}"
    if abs(value) < 1e-4:
        return f"{value:.{digits - 1}e}"
    return f"{value:,.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"


def _count(value: float) -> str:
    unit = next((u for u in ((1e9, " B"), (1e6, " M"), (1e3, " k")) if value >= u[0]), (1, ""))
    return _significant(value / unit[0], 3) + unit[1] if unit[1] else f"{value:.0f}"


def figure_text(name: str, value: float | None, unit: bool = False) -> str:
    """A metric as people read it; bytes are in MB (10^6)."""
    kind = name.partition("/")[0]
    if value is None or not math.isfinite(value):
        return _significant(value)
    if kind in ("accuracy", "top1_agreement") or "/top1" in name:
        text = f"{value:.3f}"
    elif kind == "parameters":
        text = _count(value)
    elif kind == "parity" and value == int(value):
        text = f"{value:,.0f}"
    elif kind.endswith("_bytes"):
        text = _significant(value / 1e6)
    else:
        text = _significant(value, 4 if kind == "perplexity" else 3)
    return f"{text} {UNITS[kind]}" if unit and kind in UNITS else text


def _band(value: float | None, band: float | None, unit: str) -> Cell:
    if value is None or band is None:
        return Cell(_significant(value))
    return Cell(
        _significant(value),
        f"{_significant(value / (1 + band))} to {_significant(value * (1 + band))} {unit}",
    )


# The parts of the report.


def _view(ledger: Record) -> dict[str, Any]:
    """All that the templates show, but for the figures."""
    steps, recipe, gate = _steps(ledger), ledger.get("recipe") or "", _part(ledger, "gate")
    model = _part(ledger, "recipe").get("model")
    baseline, candidate = _ends(ledger)
    roles = {_name(candidate): "candidate"} if candidate is not baseline else {}
    roles |= {_name(baseline): "baseline"} if _name(baseline) != "baseline" else {}
    return {
        "title": str(_part(ledger, "recipe").get("name") or model or "unnamed run"),
        "model": model,
        "created": _date(ledger.get("created")),
        "version": ledger.get("edgewright"),
        "commands": _commands(ledger),
        "verdict": gate.get("verdict"),
        "gate": gate,
        "checks": [_check(check) for check in gate.get("checks") or []],
        "headline": _headline(baseline, candidate),
        "steps": steps_table(steps, roles) if steps else None,
        "modules": [
            _worst_modules(step) for step in steps if _part(_part(step, "details"), "modules")
        ],
        "experts": _experts_table(steps),
        "parity": _parity_table(steps),
        "target": _part(ledger, "plan").get("target") or _part(ledger, "recipe").get("target"),
        "plan": _plan_table(_part(ledger, "plan")),
        "notes": [
            (_name(step), list(map(str, step["notes"]))) for step in steps if step.get("notes")
        ],
        "contexts": _contexts(steps) if steps else None,
        "environment": list(_flat(_part(ledger, "environment"))),
        "recipe": recipe
        if isinstance(recipe, str)
        else yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True),
    }


def _commands(ledger: Record) -> str:
    """What to type: the versions that the figures depend on, and the run of the recipe that follows."""
    environment = _part(ledger, "environment")
    versions = [
        f"{name}=={str(environment[name]).partition('+')[0]}"
        for name in ("torch", "transformers", "onnxruntime")
        if environment.get(name)
    ]
    made = (
        [f"pip install edgewright=={ledger.get('edgewright')} {' '.join(versions)}"]
        if versions
        else []
    )
    again = (
        ["edgewright run recipe.yaml    # the recipe below, with every default and --set in it"]
        if ledger.get("recipe")
        else []
    )
    command = ledger.get("command")
    return "\n".join([*made, *again, *([f"# as it was run: {command}"] if command else [])])


def _date(created: Any) -> str:
    try:
        return datetime.fromisoformat(str(created)).strftime("%Y-%m-%d %H:%M %Z").strip()
    except ValueError:
        return str(created or "")


def _ends(ledger: Record) -> tuple[Record, Record]:
    """The baseline and the candidate: those of the gate, or else the first step and the last one that was measured."""
    steps, gate = _steps(ledger), _part(ledger, "gate")
    by_name = {_name(step): step for step in steps}
    measured = [step for step in steps if _part(step, "metrics")] or [{}]
    return by_name.get(str(gate.get("baseline")), measured[0]), by_name.get(
        str(gate.get("candidate")), measured[-1]
    )


def _check(check: Record) -> dict[str, Any]:
    """One limit of the gate: what was asked, what was seen, and between which two figures."""
    name = str(check.get("metric", DASH))
    pair = [
        figure_text(name, _number(check.get(key)), unit=True) for key in ("baseline", "candidate")
    ]
    observed = _significant(_number(check.get("observed")))
    verdict = check.get("verdict") or (
        "pass" if check.get("passed") else "fail"
    )  # older ledgers only know these two
    needed = (
        f"about {check['samples_needed']:,} samples would decide"
        if check.get("samples_needed")
        else ""
    )
    evidence = [
        f"{interval_text(check)} on {check.get('samples'):,} samples"
        if check.get("interval")
        else "",
        needed,
        check.get("note"),
    ]
    return {
        "metric": name,
        "pair": pair,
        "limit": check.get("limit", DASH),
        "observed": observed,
        "verdict": verdict,
        "evidence": "; ".join(str(part) for part in evidence if part),
    }


def _headline(baseline: Record, candidate: Record) -> list[dict[str, str]]:
    """The figures that people ask for first, from baseline to candidate, each one only if the two are comparable."""
    names = [
        *names_of([baseline, candidate], "accuracy")[:2],
        "size_bytes",
        "decode_tok_s/p50",
        "ttft_ms/p50",
        "peak_rss_bytes",
    ]
    cards = []
    for name in names:
        before, after = _metric(baseline, name), _metric(candidate, name)
        if (
            baseline is candidate
            or before is None
            or after is None
            or not is_alike(baseline, candidate, name)
        ):
            continue
        ratio = (
            f"{_significant(after / before)}×"
            if before and name in PLAIN
            else f"{after - before:+.3f}"
        )
        label = PLAIN.get(name) or name.replace("/", " ", 1)
        cards.append(
            {
                "label": label,
                "before": figure_text(name, before, True),
                "after": figure_text(name, after, True),
                "ratio": ratio,
            }
        )
    return cards


def plots_of(steps: Sequence[Record], baseline: Record) -> Any:
    """The figures of some steps, leaving out what cannot be set beside the baseline's."""
    from .charts import (
        Measured,
        figures,
    )  # late: matplotlib takes its time, and Markdown needs none

    measured = []
    for step in steps:
        values = {name: _metric(step, name) for name in _part(step, "metrics")}
        numbers = {
            name: value
            for name, value in values.items()
            if value is not None and math.isfinite(value)
        }
        unlike = frozenset(name for name in numbers if not is_alike(step, baseline, name))
        measured.append(Measured(_name(step), numbers, unlike, _part(step, "details")))
    return figures(measured, names_of(steps, "accuracy"))


# The tables.


def steps_table(steps: Sequence[Record], roles: Mapping[str, str]) -> Table:
    """A row for each step with all of its headline metrics; `roles` are words beside the names."""
    columns = [Column("step", numeric=False), Column("kind", numeric=False)]
    names = [name for prefix in TASKED for name in names_of(steps, prefix) or [prefix]]
    counts = {
        name: sorted({_part(step, "metrics").get(f"{name}/n", 0) for step in steps} - {0})
        for name in names
    }
    for name in names:
        kind, _, label = name.partition("/")
        columns.append(
            Column(
                TASKED[kind],
                f"{label}, n={counts[name][0]:,.0f}" if len(counts[name]) == 1 else label,
            )
        )
    columns += [
        Column(title, UNITS.get(name.partition("/")[0], "")) for name, title in PLAIN.items()
    ]
    rows = []
    for step in steps:
        cells = [
            _metric_cell(step, name, len(counts.get(name, ())) > 1) for name in (*names, *PLAIN)
        ]
        head = [Cell(_name(step), roles.get(_name(step), "")), Cell(str(step.get("kind", DASH)))]
        rows.append([*head, *cells, Cell(_significant(_number(step.get("seconds"))))])
    return Table([*columns, Column("seconds")], rows)


def _metric_cell(step: Record, name: str, with_count: bool) -> Cell:
    count = _metric(step, f"{name}/n")
    noisy = (
        "varies" if name.partition("/")[0] in (_part(step, "context").get("noisy") or ()) else ""
    )
    return Cell(
        metric_text(step, name),
        f"n={_significant(count)}" if with_count and count is not None else noisy,
    )


def metric_text(step: Record, name: str, unit: bool = False) -> str:
    """A metric of a step as people read it, with its standard error where it has one."""
    value, error = _metric(step, name), _metric(step, f"{name}/stderr")
    return figure_text(name, value, unit) + (
        f" ± {_significant(error, 2)}" if value is not None and error is not None else ""
    )


def _worst_modules(step: Record) -> Table:
    """The modules with the largest quantization error, beside what plain rounding would have cost them."""
    modules = [
        (name, value)
        for name, value in _part(_part(step, "details"), "modules").items()
        if isinstance(value, Mapping)
    ]
    modules.sort(key=lambda item: -(_number(item[1].get("error")) or 0.0))
    rows = []
    for name, value in modules[:WORST_MODULES]:
        error, rounding = _number(value.get("error")), _number(value.get("rtn_error"))
        ratio = error / rounding if error is not None and rounding else None
        tone = "" if ratio is None else "good" if ratio < 1 else "bad" if ratio > 1 else ""
        rows.append(
            [
                Cell(name),
                Cell(_significant(error)),
                Cell(_significant(rounding)),
                Cell(_significant(ratio), tone=tone),
            ]
        )
    method = str(_part(step, "config").get("method") or "quantized").upper()
    columns = [
        Column("module", numeric=False),
        Column("error", method),
        Column("error", "round to nearest"),
        Column("ratio"),
    ]
    return Table(columns, rows, _name(step))


def _experts_table(steps: Sequence[Record]) -> Table | None:
    """How evenly tokens were spread over the experts of a mixture before and after pruning: means over its layers."""
    columns = [
        Column("step", numeric=False),
        Column("layers"),
        Column("experts", "in each"),
        Column("choices lost", "share"),
        Column("evenness", "entropy, 1 is even"),
        Column("busiest", "times the mean"),
        Column("unused", "in each"),
    ]
    rows = []
    for step in steps:
        entries = [
            entry
            for entry in _part(step, "details").get("experts") or []
            if isinstance(entry, Mapping)
        ]
        if entries:
            lists = (entries[0].get(key) for key in ("importance", "removed"))
            whole, gone = (len(values) if isinstance(values, list) else 0 for values in lists)
            pairs = [
                " → ".join(
                    _significant(_mean([_part(e, when).get(key) for e in entries]))
                    for when in ("before", "after")
                )
                for key in ("entropy", "busiest", "unused")
            ]
            lost = _significant(_mean([entry.get("removed_share") for entry in entries]))
            texts = (_name(step), str(len(entries)), f"{whole} → {whole - gone}", lost, *pairs)
            rows.append([Cell(text) for text in texts])
    return Table(columns, rows) if rows else None


def _mean(values: Sequence[Any]) -> float | None:
    known = [number for number in map(_number, values) if number is not None]
    return sum(known) / len(known) if known else None


def _parity_table(steps: Sequence[Record]) -> Table | None:
    found = [(step, _part(_part(step, "details"), "parity")) for step in steps]
    found = [(step, parity) for step, parity in found if parity]
    names = list(dict.fromkeys(name for _, parity in found for name in parity))
    columns = [
        Column("export", numeric=False),
        *(Column(n.removeprefix("parity/").replace("_", " ")) for n in names),
    ]
    rows = [
        [Cell(_name(s)), *(Cell(figure_text(n, _number(parity.get(n)))) for n in names)]
        for s, parity in found
    ]
    return Table(columns, rows) if found else None


def _plan_table(plan: Record) -> Table | None:
    columns = [
        Column("step", numeric=False),
        Column("precision", numeric=False),
        Column("weights", "MB"),
        Column("KV cache", "MB"),
        Column("total", "MB"),
        Column("usable", "MB"),
        Column("fits", numeric=False),
        Column("TTFT", "ms"),
        Column("decode", "tok/s"),
        Column("against it", numeric=False),
    ]
    rows = []
    for row in plan.get("rows") or []:
        sizes = [_number(row.get(f"{key}_bytes")) for key in ("weight", "kv", "total", "usable")]
        cells = [Cell(figure_text("size_bytes", size)) for size in sizes]
        total, usable = sizes[2:]
        fits = row.get("fits")
        tone = {True: "good", False: "bad"}.get(fits, "") if isinstance(fits, bool) else ""
        if total is not None and usable:
            cells[2] = Cell(
                cells[2].text, f"{total / usable:.0%}", tone, min(max(total / usable, 0.0), 1.0)
            )
        speeds = [
            _band(_number(row.get(key)), _number(row.get(band)), unit)
            for key, band, unit in (
                ("ttft_ms", "ttft_band", "ms"),
                ("decode_tok_s", "band", "tok/s"),
            )
        ]
        verdict = Cell({"good": "yes", "bad": "no"}.get(tone, DASH), tone=tone)
        against = Cell(
            "; ".join(map(str, [*(row.get("refused") or []), *(row.get("violations") or [])]))
            or DASH
        )
        rows.append(
            [
                Cell(str(row.get("step", DASH))),
                Cell(str(row.get("precision", DASH))),
                *cells,
                verdict,
                *speeds,
                against,
            ]
        )
    known = [i for i in range(len(columns)) if any(row[i].text != DASH for row in rows)]
    return (
        Table([columns[i] for i in known], [[row[i] for i in known] for row in rows])
        if rows
        else None
    )


def _contexts(steps: Sequence[Record]) -> tuple[Table, list[tuple[str, str]]]:
    """How each step was measured: a table of what differs, and what was the same for all."""
    contexts = [dict(_flat(_part(step, "context"))) for step in steps]
    keys = list(dict.fromkeys(key for context in contexts for key in context))
    known = [context for context in contexts if context]
    same = {
        key: known[0][key]
        for key in keys
        if all(context.get(key) == known[0].get(key) for context in known)
    }
    varied = [key for key in keys if key not in same]
    columns = [Column(title, numeric=False) for title in ("step", "fingerprint", "output", *varied)]
    rows = []
    for step, context in zip(steps, contexts, strict=True):
        head = (
            _name(step),
            str(step.get("fingerprint") or DASH)[:12],
            str(step.get("output") or DASH),
        )
        rows.append([Cell(text) for text in (*head, *(context.get(key, DASH) for key in varied))])
    return Table(columns, rows), list(same.items())


def _flat(record: Record, prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in record.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", DASH if value is None else str(value)
