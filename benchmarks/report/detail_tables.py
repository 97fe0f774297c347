"""The tables below the steps: quantization errors, experts, parity, plan, measuring conditions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..metrics import find, format_value
from ..number_format import DASH, significant
from .ledger_view import Record, name_of, number, part
from .report_table import ReportCell, ReportColumn, ReportTable

__all__ = [
    "conditions_of",
    "experts_table",
    "flatten",
    "parity_table",
    "plan_table",
    "worst_modules",
]

WORST_MODULES = 10
PLAN_COLUMNS = (
    ReportColumn("step", numeric=False),
    ReportColumn("precision", numeric=False),
    ReportColumn("weights", "MB"),
    ReportColumn("KV cache", "MB"),
    ReportColumn("total", "MB"),
    ReportColumn("usable", "MB"),
    ReportColumn("fits", numeric=False),
    ReportColumn("TTFT", "ms"),
    ReportColumn("decode", "tok/s"),
)
EXPERT_COLUMNS = (
    ReportColumn("step", numeric=False),
    ReportColumn("layers"),
    ReportColumn("experts", "in each"),
    ReportColumn("choices lost", "share"),
    ReportColumn("evenness", "entropy, 1 is even"),
    ReportColumn("busiest", "times the mean"),
    ReportColumn("unused", "in each"),
)


def worst_modules(step: Record) -> ReportTable | None:
    """The modules with the largest quantization error, beside the error of plain rounding."""
    modules = [
        (name, value)
        for name, value in part(part(step, "details"), "modules").items()
        if isinstance(value, Mapping)
    ]
    if not part(part(step, "details"), "modules"):
        return None
    modules.sort(key=lambda item: -(number(item[1].get("error")) or 0.0))
    rows = [_module_row(name, value) for name, value in modules[:WORST_MODULES]]
    method = str(part(step, "config").get("method") or "quantized").upper()
    columns = [
        ReportColumn("module", numeric=False),
        ReportColumn("error", method),
        ReportColumn("error", "round to nearest"),
        ReportColumn("ratio"),
    ]
    return ReportTable(columns, rows, name_of(step))


def _module_row(name: str, module: Record) -> list[ReportCell]:
    error = number(module.get("error"))
    rounding = number(module.get("rtn_error"))
    ratio = error / rounding if error is not None and rounding else None
    tone = ""
    if ratio is not None and ratio != 1:
        tone = "good" if ratio < 1 else "bad"
    return [
        ReportCell(name),
        ReportCell(significant(error)),
        ReportCell(significant(rounding)),
        ReportCell(significant(ratio), tone=tone),
    ]


def experts_table(steps: Sequence[Record]) -> ReportTable | None:
    """How evenly tokens went to the experts of a mixture, before and after pruning.

    The numbers are means over the layers.
    """
    rows = []
    for step in steps:
        entries = [
            entry
            for entry in part(step, "details").get("experts") or []
            if isinstance(entry, Mapping)
        ]
        if entries:
            rows.append([ReportCell(text) for text in _expert_texts(name_of(step), entries)])
    return ReportTable(EXPERT_COLUMNS, rows) if rows else None


def _expert_texts(step: str, layers: Sequence[Record]) -> list[str]:
    lists = (layers[0].get(key) for key in ("importance", "removed"))
    before, removed = (len(values) if isinstance(values, list) else 0 for values in lists)
    pairs = [
        " → ".join(
            significant(_mean([part(layer, when).get(key) for layer in layers]))
            for when in ("before", "after")
        )
        for key in ("entropy", "busiest", "unused")
    ]
    lost = significant(_mean([layer.get("removed_share") for layer in layers]))
    return [step, str(len(layers)), f"{before} → {before - removed}", lost, *pairs]


def _mean(values: Sequence[Any]) -> float | None:
    known = [value for value in map(number, values) if value is not None]
    return sum(known) / len(known) if known else None


def parity_table(steps: Sequence[Record]) -> ReportTable | None:
    """How well each export agrees with its checkpoint."""
    found = [(step, part(part(step, "details"), "parity")) for step in steps]
    found = [(step, parity) for step, parity in found if parity]
    names = list(dict.fromkeys(name for _, parity in found for name in parity))
    columns = [ReportColumn("export", numeric=False), *map(_parity_column, names)]
    rows = [
        [
            ReportCell(name_of(step)),
            *(ReportCell(format_value(name, number(parity.get(name)))) for name in names),
        ]
        for step, parity in found
    ]
    return ReportTable(columns, rows) if found else None


def _parity_column(name: str) -> ReportColumn:
    metric = find(name)
    return ReportColumn(metric.label if metric else name)


def plan_table(plan: Record) -> ReportTable | None:
    """What the plan predicted for each step; columns that no row has are left out.

    What the device cannot do is in `device_summary`.
    """
    rows = [_plan_row(row) for row in plan.get("rows") or []]
    columns = range(len(PLAN_COLUMNS))
    known = [i for i in columns if any(row[i].text != DASH for row in rows)]
    if not rows:
        return None
    return ReportTable([PLAN_COLUMNS[i] for i in known], [[row[i] for i in known] for row in rows])


def _plan_row(row: Record) -> list[ReportCell]:
    sizes = [number(row.get(f"{key}_bytes")) for key in ("weight", "kv", "total", "usable")]
    cells = [ReportCell(format_value("size_bytes", size)) for size in sizes]
    total, usable = sizes[2:]
    fits = row.get("fits")
    tone = ("good" if fits else "bad") if isinstance(fits, bool) else ""
    if total is not None and usable:
        share = total / usable
        cells[2] = ReportCell(cells[2].text, f"{share:.0%}", tone, min(max(share, 0.0), 1.0))
    return [
        ReportCell(str(row.get("step", DASH))),
        ReportCell(str(row.get("precision", DASH))),
        *cells,
        ReportCell({"good": "yes", "bad": "no"}.get(tone, DASH), tone=tone),
        _with_range(row, "ttft_ms", "ttft_band", "ms"),
        _with_range(row, "decode_tok_s", "band", "tok/s"),
    ]


def _with_range(row: Record, key: str, band_key: str, unit: str) -> ReportCell:
    """A predicted value, and the range that the factor 1 + band gives either way."""
    value = number(row.get(key))
    band = number(row.get(band_key))
    if value is None or band is None:
        return ReportCell(significant(value))
    low = significant(value / (1 + band))
    high = significant(value * (1 + band))
    return ReportCell(significant(value), f"{low} to {high} {unit}")


def conditions_of(steps: Sequence[Record]) -> tuple[ReportTable, list[tuple[str, str]]]:
    """How each step was measured: a table of what differs, and what is the same for all."""
    contexts = [dict(flatten(part(step, "context"))) for step in steps]
    keys = list(dict.fromkeys(key for context in contexts for key in context))
    known = [context for context in contexts if context]
    same = {
        key: known[0][key]
        for key in keys
        if all(context.get(key) == known[0].get(key) for context in known)
    }
    varied = [key for key in keys if key not in same]
    titles = ("step", "fingerprint", "output", *varied)
    rows = []
    for step, context in zip(steps, contexts, strict=True):
        head = (
            name_of(step),
            str(step.get("fingerprint") or DASH)[:12],
            str(step.get("output") or DASH),
        )
        texts = (*head, *(context.get(key, DASH) for key in varied))
        rows.append([ReportCell(text) for text in texts])
    columns = [ReportColumn(title, numeric=False) for title in titles]
    return ReportTable(columns, rows), list(same.items())


def flatten(record: Record, prefix: str = "") -> Iterator[tuple[str, str]]:
    """The entries of nested mappings, with dotted keys, as text."""
    for key, value in record.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", DASH if value is None else str(value)
