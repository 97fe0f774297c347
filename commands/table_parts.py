"""Shared by all tables on a terminal: numbers, rows, and the columns of metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.table import Table

from ..benchmarks.metric_cells import COLUMNS, cell, metric_cell

__all__ = ["METRIC_COLUMNS", "QUALITY_COLUMNS", "ColumnTable", "cell", "metric_row", "table"]

PROSE = 32
"""A column with a longer cell is text, which may be wrapped; numbers and names stay whole."""
FRAME = 3
"""Columns of the terminal that the frame takes for each column of a table."""


@dataclass(frozen=True)
class ColumnTable:
    """A table that is printed in several parts where the terminal is too narrow for it.

    Numbers and names are never broken. Each part repeats the first columns.

    Attributes:
        columns: headings, from left to right.
        rows: texts of the cells.
        title: above the table.
        keys: how many of the first columns name a row.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    keys: int = 1

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        """The parts, as wide as the console."""
        title = self.title
        for part in self._parts(options.max_width):
            yield self._table(part, title, options.max_width)
            title = ""

    def _parts(self, width: int) -> list[list[int]]:
        """The columns of each part."""
        keys = list(range(self.keys))
        parts = [keys]
        for index in range(self.keys, len(self.columns)):
            longer = [*parts[-1], index]
            if self._width(longer) <= width or parts[-1] == keys:
                parts[-1] = longer
            else:
                parts.append([*keys, index])
        return parts

    def _width(self, part: Sequence[int]) -> int:
        return 1 + sum(FRAME + self._least(index) for index in part)

    def _least(self, index: int) -> int:
        """The width that a column needs."""
        words = [cell_len(word) for word in self.columns[index].split()]
        return max([*words, min(self._longest(index), PROSE)])

    def _longest(self, index: int) -> int:
        """The width of the longest line in a column."""
        lines = [line for row in self.rows for line in row[index].splitlines()]
        return max(map(cell_len, lines), default=0)

    def _table(self, part: Sequence[int], title: str, width: int) -> Table:
        made = Table(title=title or None, title_justify="left", header_style="bold")
        spare = width - self._width(part)
        for index in part:
            least = self._least(index)
            more = max(self._longest(index), cell_len(self.columns[index])) - least
            extra = max(min(more, spare), 0)
            made.add_column(
                self.columns[index],
                justify="left" if index == 0 or self._longest(index) > PROSE else "right",
                overflow="fold",
                width=None if spare < 0 else least + extra,
            )
            spare -= extra
        for row in self.rows:
            made.add_row(*(row[index] for index in part))
        return made


def table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], title: str = "", keys: int = 1
) -> ColumnTable:
    """A table with its first column and prose aligned left, the others right; see `ColumnTable`."""
    return ColumnTable(columns, rows, title, keys)


def metric_row(name: str, metrics: Mapping[str, float], seconds: float | None) -> list[str]:
    """One row under `METRIC_COLUMNS`."""
    return [
        name,
        *(metric_cell(metrics, *column) for column in COLUMNS),
        cell(seconds, ".0f"),
    ]


METRIC_COLUMNS = ("step", *(column.heading for _, column in COLUMNS), "s")
QUALITY_COLUMNS = 1 + sum("<" in metric.pattern for metric, _ in COLUMNS)
"""Name, and the metrics of tasks and texts; latency, memory and size come after them."""
