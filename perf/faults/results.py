"""Results of the campaign: one JSON line a case, from which it goes on, and a table of them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

__all__ = ["Result", "findings", "read_results", "table", "write_result"]


@dataclass(frozen=True)
class Result:
    """One case.

    Attributes:
        command, fault, seed: its name.
        problems: what was wrong; empty: nothing.
        notes: what was done.
        seconds: how long it took.
    """

    command: str
    fault: str
    seed: int
    problems: list[str] = field(default_factory=list[str])
    notes: list[str] = field(default_factory=list[str])
    seconds: float = 0.0

    @property
    def name(self) -> str:
        """What `--only` takes to repeat it."""
        return f"{self.command}:{self.fault}:{self.seed}"


def read_results(file: Path) -> dict[str, Result]:
    """The results in a file by name; a line that was not written whole is left out."""
    found: dict[str, Result] = {}
    for line in file.read_text().splitlines() if file.is_file() else ():
        try:
            result = Result(**json.loads(line))
        except (ValueError, TypeError):
            continue
        found[result.name] = result
    return found


def write_result(file: Path, result: Result) -> None:
    """Append a result to a file."""
    with file.open("a") as handle:
        handle.write(json.dumps(asdict(result)) + "\n")


def table(results: Iterable[Result]) -> str:
    """A Markdown table: right cases of all cases, by command and fault."""
    cells: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for result in results:
        for command in (result.command, "all"):
            for fault in (result.fault, "all"):
                cells[command][fault].append(not result.problems)
    commands = [*(name for name in cells if name != "all"), "all"]
    faults = [*(name for name in cells["all"] if name != "all"), "all"]
    lines = [
        f"| command | {' | '.join(faults)} |",
        f"| --- | {' | '.join('---:' for _ in faults)} |",
    ]
    for command in commands:
        row = [_cell(cells[command], fault) for fault in faults]
        lines.append(f"| {command} | {' | '.join(row)} |")
    return "\n".join(lines)


def _cell(row: Mapping[str, list[bool]], fault: str) -> str:
    found = row.get(fault, [])
    return f"{sum(found)}/{len(found)}" if found else ""


def findings(results: Iterable[Result]) -> str:
    """One line for each case that went wrong."""
    return "\n".join(
        f"{result.name}: {'; '.join(result.problems)} ({', '.join(result.notes)})"
        for result in results
        if result.problems
    )
