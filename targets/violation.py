"""One thing that a target cannot do as asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Severity", "Violation"]

Severity = Literal["refuse", "note"]


@dataclass(frozen=True)
class Violation:
    """One thing that a target cannot do as asked.

    Attributes:
        rule: short name: format, precision, int4-symmetric, int4-group, int4-shape, int4-order,
            int4-tensorrt, block, opset, attention, family, architecture, memory or buffer; of a
            graph (`graph_rules`) operator, quantization, uint8 or parser.
        message: what does not work, and why.
        nearest: the nearest thing that works.
        severity: `refuse`: it cannot run as asked. `note`: it runs, but not on every JetPack
            release, or not as one may expect.
        releases: names of the JetPack releases that have the limit; empty: it is not one of theirs.
    """

    rule: str
    message: str
    nearest: str
    severity: Severity = "refuse"
    releases: tuple[str, ...] = ()
