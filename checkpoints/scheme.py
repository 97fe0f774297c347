"""How the integers of a quantized linear layer are chosen; without torch, as options need it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Scheme"]


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
