"""The Hessian of a linear layer: the sum of x x^T over its calibration inputs x.

If a weight W is replaced by W + D, the squared error of the outputs is tr(D H D^T). So the Hessian
H is all that is needed to judge a rounded or pruned weight. (Up to a factor of two, H is the second
derivative of that error. It is also known as the Gram matrix of the inputs.)
"""

from __future__ import annotations

import torch
from torch import Tensor

from .mixed_precision import bf16_products

__all__ = ["Hessian", "energy", "output_error", "spread"]

ROWS = 2048
"""Inputs that are converted to float32 at a time."""
COLUMNS = 512
"""Columns of the upper triangle that one product computes; the lower triangle is its mirror."""


class Hessian:
    """Sums x x^T over inputs x [in]. The sum is float32: a bfloat16 sum is not positive definite.

    Args:
        width: channels of an input.
        device: device of the inputs.
        share: share of the inputs that are used. They are drawn at random, because taking every
            n-th input would take the same positions of every row.
        bf16: round the inputs to bfloat16 first, which some processors multiply several times as
            fast. The sum stays float32.
    """

    def __init__(
        self, width: int, device: torch.device | str = "cpu", share: float = 1.0, bf16: bool = False
    ) -> None:
        self._sum = torch.zeros(width, width, device=device)
        self._share = share
        self._dice = torch.Generator().manual_seed(0)
        self._bf16 = bf16

    def add(self, inputs: Tensor) -> None:
        """Add inputs [..., in]."""
        x = inputs.reshape(-1, inputs.shape[-1])
        if self._share < 1:
            x = x[(torch.rand(len(x), generator=self._dice) < self._share).to(x.device)]
        with bf16_products(self._bf16):
            for part in x.split(ROWS):
                self._add(part.float())

    def _add(self, x: Tensor) -> None:
        for begin in range(0, x.shape[1], COLUMNS):
            end = min(begin + COLUMNS, x.shape[1])
            self._sum[:end, begin:end].addmm_(x[:, :end].t(), x[:, begin:end])

    def matrix(self) -> Tensor:
        """Return the sum [in, in]. Do not use the object afterwards."""
        for begin in range(COLUMNS, len(self._sum), COLUMNS):
            end = min(begin + COLUMNS, len(self._sum))
            self._sum[begin:end, :begin] = self._sum[:begin, begin:end].t()
        return self._sum


def output_error(weight: Tensor, replacement: Tensor, hessian: Tensor) -> float:
    """Relative squared error of the outputs: tr(D H D^T) / tr(W H W^T), D the change of W."""
    return energy(replacement - weight, hessian) / max(energy(weight, hessian), 1e-30)


def energy(weight: Tensor, hessian: Tensor) -> float:
    """Sum of the squared outputs of a weight [out, in] on the inputs of Hessian H: tr(W H W^T)."""
    weight = weight.float()
    return float((weight @ hessian).mul_(weight).sum())


def spread(outputs: int, most: int = 256) -> slice:
    """Select about `most` of the output channels, evenly spaced, to estimate an error cheaply."""
    return slice(None, None, max(1, outputs // most))
