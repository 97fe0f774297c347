"""The table of all steps with their metrics, and how a metric of a step is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ..metric import Metric
from ..metrics import METRICS, REPORT_COLUMNS, find, format_value
from ..number_format import DASH, significant
from .ledger_view import Record, metric_of, metrics_named, name_of, number, part
from .report_table import ReportCell, ReportColumn, ReportTable

__all__ = ["metric_text", "metric_title", "short_title", "shown_metrics", "steps_table"]

BY_PATTERN: Mapping[str, Metric] = {metric.pattern: metric for metric in METRICS}


def shown_metrics(steps: Sequence[Record]) -> Iterator[tuple[Metric, str]]:
    """Declaration and name of each metric that a table of these steps shows.

    A pattern such as `accuracy/<task>` gives one metric per task, or itself if no step has one.
    """
    for pattern in REPORT_COLUMNS:
        for name in metrics_named(steps, pattern) or [pattern]:
            yield BY_PATTERN[pattern], name


def metric_title(metric: Metric, name: str) -> str:
    """A metric's label, and what it was measured on: `exact match, reasoning`."""
    return ", ".join([metric.label, *(metric.parts(name) or {}).values()])


def short_title(name: str) -> str:
    """A metric's name where there is little room: `accuracy gsm8k`, `decode`."""
    metric = find(name)
    return metric.label if metric and not metric.parts(name) else name.replace("/", " ", 1)


def metric_text(step: Record, name: str, *, unit: bool = False) -> str:
    """A metric of a step as people read it, with its standard error if it has one."""
    value = metric_of(step, name)
    error = metric_of(step, f"{name}/stderr")
    text = format_value(name, value, unit=unit)
    return text if value is None or error is None else f"{text} ± {significant(error, 2)}"


def steps_table(steps: Sequence[Record], roles: Mapping[str, str]) -> ReportTable:
    """One row per step with its main metrics.

    Args:
        steps: entries of ledgers.
        roles: a word beside the name of some steps, by name, e.g. `candidate`.
    """
    columns = [ReportColumn("step", numeric=False), ReportColumn("kind", numeric=False)]
    shown = list(shown_metrics(steps))
    counts = {name: _counts(steps, name) for _, name in shown}
    columns += [_column(metric, name, counts[name]) for metric, name in shown]
    rows = [
        [
            ReportCell(name_of(step), roles.get(name_of(step), "")),
            ReportCell(str(step.get("kind", DASH))),
            *(_metric_cell(step, name, len(counts[name]) > 1) for _, name in shown),
            ReportCell(significant(number(step.get("seconds")))),
            ReportCell(significant(_gigabytes(step))),
        ]
        for step in steps
    ]
    made = [ReportColumn("seconds"), ReportColumn("memory of the step", "GB")]
    return ReportTable([*columns, *made], rows)


def _gigabytes(step: Record) -> float | None:
    """The peak memory of making the step's result; None for a baseline or an old ledger."""
    peak = number(step.get("peak_rss_bytes"))
    return None if peak is None else peak / 1e9


def _counts(steps: Sequence[Record], name: str) -> list[float]:
    """The different numbers of samples that a metric has in these steps."""
    return sorted({part(step, "metrics").get(f"{name}/n", 0) for step in steps} - {0})


def _column(metric: Metric, name: str, counts: Sequence[float]) -> ReportColumn:
    title = f"{metric.label} ± stderr" if metric.shows_error else metric.label
    if name == metric.pattern:  # no step has it, or it has no parts
        return ReportColumn(title, metric.unit)
    label = ", ".join((metric.parts(name) or {}).values())
    return ReportColumn(title, f"{label}, n={counts[0]:,.0f}" if len(counts) == 1 else label)


def _metric_cell(step: Record, name: str, with_count: bool) -> ReportCell:
    count = metric_of(step, f"{name}/n")
    if with_count and count is not None:
        return ReportCell(metric_text(step, name), f"n={significant(count)}")
    noisy = part(step, "context").get("noisy") or ()
    return ReportCell(metric_text(step, name), "varies" if name.partition("/")[0] in noisy else "")
