"""Which axis of a weight shrinks when units of a block are removed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["CutAxis", "Unit"]

Unit = Literal["heads", "kv_heads", "neurons"]
"""What structured pruning removes from a block: query heads, key/value heads, FFN neurons."""


@dataclass(frozen=True)
class CutAxis:
    """An axis of a linear layer's weight that consists of whole units.

    Attributes:
        linear: name of the linear layer, relative to its decoder layer.
        unit: what the axis consists of.
        axis: 0 for outputs (the bias shrinks with them), 1 for inputs.
        channels: consecutive channels of a unit.
        first: the first of these channels, where the axis holds units of several kinds.
    """

    linear: str
    unit: Unit
    axis: Literal[0, 1]
    channels: int = 1
    first: int = 0
