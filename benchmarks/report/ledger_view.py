"""Reading a ledger for reports. Anything may be absent: the run may be unfinished."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from ..metrics import names_of, why_unlike

__all__ = [
    "Record",
    "are_comparable",
    "metric_of",
    "metrics_named",
    "name_of",
    "number",
    "parents_of",
    "part",
    "steps_of",
]

Record = Mapping[str, Any]
"""A part of a ledger, e.g. the entry of a step."""


def steps_of(ledger: Record) -> list[Record]:
    """The entries of the steps."""
    return [step for step in ledger.get("steps") or [] if isinstance(step, Mapping)]


def part(record: Record, key: str) -> Record:
    """A mapping inside a record; empty if there is none."""
    value = record.get(key)
    return value if isinstance(value, Mapping) else {}


def name_of(step: Record) -> str:
    """The step's name."""
    return str(step.get("name") or "unnamed")


def number(value: Any) -> float | None:
    """The value if it is a number; None for anything else and for NaN."""
    known = isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
    return value if known else None


def metric_of(step: Record, name: str) -> float | None:
    """A metric of a step."""
    return number(part(step, "metrics").get(name))


def metrics_named(steps: Iterable[Record], pattern: str) -> list[str]:
    """The metrics of some steps that belong to a declared pattern, in order of first appearance."""
    return names_of((name for step in steps for name in part(step, "metrics")), pattern)


def are_comparable(one: Record, other: Record, name: str) -> bool:
    """Whether a metric of two steps was measured under the same conditions."""
    return one is other or not why_unlike(name, part(one, "context"), part(other, "context"))


def parents_of(steps: Iterable[Record]) -> dict[str, str]:
    """For each step but those that start a chain, the name of the step that it started from."""
    found: dict[str, str] = {}
    source = ""
    for step in steps:
        name = name_of(step)
        if parent := str(part(step, "config").get("from") or source):
            found[name] = parent
        source = name
    return found
