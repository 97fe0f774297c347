"""The description of a norm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Norm"]


@dataclass(frozen=True)
class Norm:
    """A norm over the last axis.

    Attributes:
        name: within its decoder layer; the full name for the norm behind the last layer.
        width: channels that are normed together.
        epsilon: added to the mean square, or to the variance.
        offset: added to the stored weight before it scales (Gemma stores weight - 1).
        kind: rms: divided by the root mean square; layer: by the standard deviation, less the mean.
        bias: whether it has a bias [width].
    """

    name: str
    width: int
    epsilon: float
    offset: float = 0.0
    kind: Literal["rms", "layer"] = "rms"
    bias: bool = False

    @property
    def parameters(self) -> int:
        """Elements of weight and bias."""
        return self.width * (2 if self.bias else 1)
