"""How the integers of a quantized linear layer are chosen. Imports no torch: options use it."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Scheme", "values_together"]


@dataclass(frozen=True)
class Scheme:
    """How the integers of a linear layer are chosen.

    Attributes:
        bits: of each integer.
        group_size: input channels that share a scale; -1: all of them.
        sym: whether the zero point is in the middle of the range.
    """

    bits: int = 4
    group_size: int = 128
    sym: bool = True

    def group(self, width: int) -> int:
        """Inputs that share a scale in a layer with `width` of them."""
        return width if self.group_size == -1 else self.group_size


def values_together(bits: int) -> int:
    """How many integers fill whole 32-bit words: 16 of 2 bits, 8 of 4, 4 of 8, 32 of 3 bits."""
    return math.lcm(32, bits) // bits
