"""The end of a run on a terminal: verdict, steps, and what the device says, on one screen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

from ..benchmarks.gate.result_files import NOT_COMPARED, explain, interval_text
from ..benchmarks.report.device_summary import Objection, device_summary
from .table_parts import METRIC_COLUMNS, cell, metric_row

__all__ = ["RunEnd"]

LINES = 17
"""Of a screen of 20; the places of the results and the next command take the rest."""
CHECKS = 3
"""Checks of the gate that are shown, those that did not pass first."""
LEAST_ROWS = 3
HEAD = 2
"""Lines of a table above its rows."""
GAP = 3
"""Columns between two columns of the table: the padding, and the line between them."""
LESS_IMPORTANT = ("params M", "peak MB", "KL", "TTFT ms", "s", "top-1", "perplexity")
"""Columns that a narrow terminal leaves out, the first one first."""
STYLES = {"pass": "green", "fail": "bold red", "inconclusive": "bold yellow"}
ORDER = ("fail", "inconclusive", "pass")
IN_REPORT = "in the report"


@dataclass(frozen=True)
class RunEnd:
    """What a finished run found; the report has all of it.

    Attributes:
        ledger: of the run.
    """

    ledger: Mapping[str, Any]

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        """At most `LINES` lines, as wide as the console."""
        width = options.max_width

        def height(texts: Iterable[Text]) -> int:
            return sum(len(text.wrap(console, width)) for text in texts)

        verdict = self._verdict()
        device, objections = self._device()
        first = [_objection(one) for one in objections[:1]]
        room = LINES - height([*verdict, *device, *first]) - bool(objections[1:])
        names = self._shown(max(room - HEAD, LEAST_ROWS))
        left_out = len(self.ledger["steps"]) - len(names)
        room -= HEAD + len(names) + bool(left_out)
        more: list[Text] = []
        for one in map(_objection, objections[1:]):
            if height([*more, one]) > room:
                break
            more.append(one)
        yield from verdict
        yield self._table(names, width)
        if left_out:
            yield Text(f"  {left_out} more steps {IN_REPORT}", "dim")
        yield from [*device, *first, *more]
        if rest := len(objections) - len(first) - len(more):
            yield Text(f"  {rest} more, of this step or others, {IN_REPORT}", "dim")

    @property
    def candidate(self) -> str:
        """The step that is judged, or the last one."""
        return (self.ledger.get("gate") or {}).get("candidate") or self.ledger["steps"][-1]["name"]

    def _verdict(self) -> list[Text]:
        """The gate's verdict, and why."""
        gate = self.ledger.get("gate")
        if not gate:
            return [Text("no gate in this recipe, so nothing was judged", "yellow")]
        heading = Text("gate: ")
        heading.append(gate["verdict"].upper(), STYLES[gate["verdict"]])
        heading.append(f"  {gate['candidate']} against {gate['baseline']}")
        lost = [Text(f"  {name}: {NOT_COMPARED}", "yellow") for name in gate.get("missing", [])]
        checks = sorted(gate["checks"], key=lambda check: ORDER.index(check["verdict"]))
        lines = [*map(_check, checks), *lost]
        shown = lines[:CHECKS]
        if rest := len(lines) - len(shown):
            shown.append(Text(f"  {rest} more checks {IN_REPORT}", "dim"))
        return [heading, *shown]

    def _device(self) -> tuple[list[Text], Sequence[Objection]]:
        """What the device says of the candidate, and all that it objects to, refusals first."""
        found = device_summary(self.ledger.get("plan") or {}, self.candidate)
        if found is None:
            return [], []
        predicted = f" ({found.prediction})" if found.prediction else ""
        own = [one for one in found.objections if self.candidate in one.steps.split(", ")]
        others = [one for one in found.objections if one not in own]
        ordered = sorted(own, key=lambda one: not one.refused) + others
        return [Text(f"on {found.target}: {found.heading}{predicted}", "bold")], ordered

    def _shown(self, most: int) -> list[str]:
        """The steps that have a row: the baseline, the candidate, and the last of the others."""
        names = [step["name"] for step in self.ledger["steps"]]
        if len(names) <= most:
            return names
        kept = {names[0], self.candidate}
        for name in reversed(names):
            if len(kept) < most - 1:  # one line says how many are left out
                kept.add(name)
        return [name for name in names if name in kept]

    def _table(self, names: Sequence[str], width: int) -> Table:
        """The steps, with as many columns as fit."""
        rows = [
            metric_row(step["name"], step["metrics"], step["seconds"])
            for step in self.ledger["steps"]
            if step["name"] in names
        ]
        columns = _columns(rows, width)
        gap = (0, GAP - 1, 0, 0)
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=gap)
        for index in columns:
            justify = "left" if index == 0 else "right"
            table.add_column(METRIC_COLUMNS[index], justify=justify, no_wrap=True)
        for row in rows:
            style = "bold" if row[0] == self.candidate else ""
            table.add_row(*(row[index] for index in columns), style=style)
        return table


def _columns(rows: Sequence[Sequence[str]], width: int) -> list[int]:
    """Which of `METRIC_COLUMNS` fit: none without a value, and the important ones first."""
    needed = {
        index: max(map(cell_len, (heading, *(row[index] for row in rows)))) + GAP
        for index, heading in enumerate(METRIC_COLUMNS)
        if any(row[index] != "-" for row in rows)
    }
    for heading in LESS_IMPORTANT:
        if sum(needed.values()) - GAP > width:
            needed.pop(METRIC_COLUMNS.index(heading), None)
    return list(needed)


def _check(check: Mapping[str, Any]) -> Text:
    """One check of the gate; one that did not pass, or without a ratio, is explained."""
    line = Text("  ")
    line.append(check["verdict"], STYLES[check["verdict"]])
    line.append(f"  {check['metric']}: ")
    if check["verdict"] != "pass" or check["observed"] is None:
        return line.append(explain(check))
    interval = f" ({interval_text(check)})" if check["interval"] else ""
    return line.append(f"{cell(check['observed'], '.4g')}{interval}, limit {check['limit']}")


def _objection(one: Objection) -> Text:
    line = Text("  ")
    line.append("refused" if one.refused else "limit", "bold red" if one.refused else "yellow")
    return line.append(f": {one.text}")
