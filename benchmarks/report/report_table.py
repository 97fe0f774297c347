"""The tables of a report, independent of HTML and Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["ReportCell", "ReportColumn", "ReportTable"]


@dataclass(frozen=True)
class ReportCell:
    """One cell: text, a note beside it, a tone (`good`, `bad`), and how full its bar is, 0 to 1."""

    text: str
    note: str = ""
    tone: str = ""
    bar: float | None = None


@dataclass(frozen=True)
class ReportColumn:
    """The head of a column; `detail` is the task or the unit below its title."""

    title: str
    detail: str = ""
    numeric: bool = True


@dataclass(frozen=True)
class ReportTable:
    """A table: its columns, its rows from top to bottom, and perhaps a title."""

    columns: Sequence[ReportColumn]
    rows: Sequence[Sequence[ReportCell]]
    title: str = ""
