"""What a table of the report is made of, for HTML and Markdown alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Cell", "Column", "Table"]


@dataclass(frozen=True)
class Cell:
    """One figure of a table: its text, a word beside it, `good` or `bad`, and how full its bar is."""

    text: str
    note: str = ""
    tone: str = ""
    bar: float | None = None


@dataclass(frozen=True)
class Column:
    """The head of a table's column; `detail` is the task or the unit under its name."""

    title: str
    detail: str = ""
    numeric: bool = True


@dataclass(frozen=True)
class Table:
    """A table of the report, for HTML and Markdown alike."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    title: str = ""
