"""Shared by all tables on a terminal: numbers, rows, and the columns of metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table

from ..benchmarks.metric import Metric, TerminalColumn
from ..benchmarks.metrics import METRICS, names_of

__all__ = ["METRIC_COLUMNS", "QUALITY_COLUMNS", "cell", "metric_row", "table"]


def cell(value: float | None, pattern: str, scale: float = 1.0) -> str:
    """A number divided by `scale` in a format, or `-` for none."""
    return "-" if value is None else format(value / scale, pattern)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> Table:
    """A table whose first column is aligned left, the others right."""
    made = Table(title=title or None, title_justify="left", header_style="bold")
    for index, column in enumerate(columns):
        made.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        made.add_row(*row)
    return made


def metric_row(name: str, metrics: Mapping[str, float], seconds: float | None) -> list[str]:
    """One row under `METRIC_COLUMNS`."""
    return [
        name,
        *(_metric_cell(metrics, *column) for column in _METRICS),
        cell(seconds, ".0f"),
    ]


def _metric_cell(metrics: Mapping[str, float], metric: Metric, column: TerminalColumn) -> str:
    """A metric for the terminal; of several tasks or texts, the first."""
    name = next(iter(names_of(metrics, metric.pattern)), "")
    text = cell(metrics.get(name), column.spec, column.divisor)
    if name and metric.shows_error:
        text += f" ± {cell(metrics.get(f'{name}/stderr', 0), column.spec, column.divisor)}"
    return text


_METRICS = [(metric, metric.terminal) for metric in METRICS if metric.terminal]
METRIC_COLUMNS = ("step", *(column.heading for _, column in _METRICS), "s")
QUALITY_COLUMNS = 1 + sum("<" in metric.pattern for metric, _ in _METRICS)
"""Name, and the metrics of tasks and texts; latency, memory and size come after them."""
