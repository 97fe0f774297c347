"""What the Python API returns: the verb's JSON as an object that a notebook shows as tables.

Each result is a dictionary, equal to what `--json` prints. `repr` is what the terminal shows, and
`_repr_html_` is the same as HTML, with everything in it escaped.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.text import Text

from .table_parts import METRIC_COLUMNS, ColumnTable, metric_row, table
from .tables import cleaned, view_of

__all__ = ["GateResult", "Measurement", "Plan", "Result", "Run", "StepResult"]

WIDEST = 160
"""Columns of a table in a terminal that is wider."""
STYLE = "text-align:right;padding:.2em .6em"
FIRST = "text-align:left;padding:.2em .6em"


class Result(dict[str, Any]):
    """What a verb found.

    Args:
        value: what `--json` prints.
        view: the table that shows it.
    """

    def __init__(self, value: dict[str, Any], view: str) -> None:
        super().__init__(value)
        self._view = view

    def __repr__(self) -> str:
        """The tables of the terminal."""
        width = min(shutil.get_terminal_size().columns, WIDEST)
        return _printed(self._items(), width).rstrip()

    def _repr_html_(self) -> str:
        """The same tables for a notebook."""
        return "\n".join(_html(item) for item in self._notebook_items())

    def _items(self) -> list[Any]:
        return view_of(self, self._view)

    def _notebook_items(self) -> list[Any]:
        return self._items()


class Plan(Result):
    """What a device will do with a model, or what each step of a recipe needs."""

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One for each precision or step: memory, speed, and what is refused."""
        return self["rows"]


class StepResult(Result):
    """What a step made."""

    @property
    def output(self) -> Path:
        """The directory that the step made."""
        return Path(self["output"])

    @property
    def notes(self) -> list[str]:
        """What the user must know about it."""
        return self["notes"]


class Measurement(Result):
    """What was measured of a model or a server."""

    @property
    def metrics(self) -> dict[str, float]:
        """The figures, by name."""
        return self["metrics"]

    @property
    def context(self) -> dict[str, Any]:
        """What must be equal for two measurements to be compared."""
        return self["context"]


class GateResult(Result):
    """Whether a candidate is worse than its baseline."""

    @property
    def verdict(self) -> Literal["pass", "fail", "inconclusive"]:
        """The verdict over all checks."""
        return self["verdict"]

    @property
    def accepted(self) -> bool:
        """Whether the policy accepts the verdict: the exit code of the command line is 0."""
        return self["accepted"]

    @property
    def checks(self) -> list[dict[str, Any]]:
        """One for each limit: values, interval, verdict."""
        return self["checks"]


class Run(Result):
    """The ledger of a run."""

    @property
    def steps(self) -> list[dict[str, Any]]:
        """What each step made and measured."""
        return self["steps"]

    @property
    def gate(self) -> GateResult | None:
        """The gate of the run, if its recipe has one."""
        found = self.get("gate")
        return GateResult(found, "gate") if found else None

    def _notebook_items(self) -> list[Any]:
        """All steps and checks: a notebook scrolls, and a terminal has 20 lines of them."""
        if "steps" not in self:  # a dry run is a plan
            return self._items()
        rows = [
            metric_row(one["name"], one["metrics"], one["seconds"]) for one in cleaned(self.steps)
        ]
        gate = self.gate
        return [table(METRIC_COLUMNS, rows), *(gate._notebook_items() if gate else ())]


def _html(item: object) -> str:
    """A part of a view as HTML: a table, or a line of text."""
    if isinstance(item, ColumnTable):
        return _html_table(item)
    if isinstance(item, str | Text):
        return f'<div style="white-space:pre-wrap">{escape(_plain(item))}</div>'
    return f"<pre>{escape(_printed([item], WIDEST))}</pre>"


def _printed(items: Iterable[object], width: int) -> str:
    """What a terminal of this width shows, without colours."""
    file = io.StringIO()
    console = Console(
        file=file, width=width, emoji=False, markup=False, no_color=True, force_jupyter=False
    )
    for item in items:
        console.print(item, highlight=False)
    return file.getvalue()


def _html_table(shown: ColumnTable) -> str:
    caption = f"<caption>{escape(_plain(shown.title))}</caption>" if shown.title else ""
    head = _row("th", shown.columns)
    body = "".join(_row("td", row) for row in shown.rows)
    return (
        f'<div style="overflow-x:auto"><table>{caption}<thead>{head}</thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _row(tag: str, cells: Iterable[str]) -> str:
    made = [
        f'<{tag} style="{FIRST if at == 0 else STYLE}">{escape(_plain(cell))}</{tag}>'
        for at, cell in enumerate(cells)
    ]
    return f"<tr>{''.join(made)}</tr>"


def _plain(text: str | Text) -> str:
    """A text as the terminal shows it, without styles."""
    return text.plain if isinstance(text, Text) else text
