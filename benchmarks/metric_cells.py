"""Metrics as text for a terminal: cells of tables, and a line for each step of a run."""

from __future__ import annotations

from collections.abc import Mapping

from .metric import Metric, TerminalColumn
from .metrics import METRICS, names_of

__all__ = ["COLUMNS", "cell", "headline", "metric_cell"]

COLUMNS = [(metric, metric.terminal) for metric in METRICS if metric.terminal]
"""The metrics that tables of a terminal have, from left to right."""


def cell(value: float | None, pattern: str, scale: float = 1.0) -> str:
    """A number divided by `scale` in a format, or `-` for none."""
    return "-" if value is None else format(value / scale, pattern)


def metric_cell(metrics: Mapping[str, float], metric: Metric, column: TerminalColumn) -> str:
    """A metric for the terminal; of several tasks or texts, the first."""
    name = next(iter(names_of(metrics, metric.pattern)), "")
    text = cell(metrics.get(name), column.spec, column.divisor)
    if name and metric.shows_error:
        text += f" ± {cell(metrics.get(f'{name}/stderr', 0), column.spec, column.divisor)}"
    return text


def headline(metrics: Mapping[str, float]) -> str:
    """All columns that have a value, in one line: `exact match 0.957 ± 0.013, perplexity 1.004`."""
    cells = [(column.heading, metric_cell(metrics, metric, column)) for metric, column in COLUMNS]
    return ", ".join(f"{heading} {text}" for heading, text in cells if text != "-")
