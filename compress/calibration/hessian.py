"""The Hessian of a layer's inputs: all that the error of a linear layer's outputs depends on."""

from __future__ import annotations

import torch
from torch import Tensor

from .mixed_precision import bf16_products

__all__ = ["Hessian", "energy", "output_error", "spread"]

ROWS = 2048
"""Inputs that are made float32 together."""
COLUMNS = 512
"""Columns of the upper triangle that are multiplied together; the rest is its mirror image."""


class Hessian:
    """The sum of outer products x x^T over inputs x [in], in float32: bfloat16 sums are not positive definite.

    Args:
        width: channels of an input.
        device: where they come in.
        share: of the inputs that count, drawn at random: a regular choice would meet the same positions of every row.
        bf16: round inputs to bfloat16 first, which some processors multiply several times as fast; sums stay float32.
    """

    def __init__(
        self, width: int, device: torch.device | str = "cpu", share: float = 1.0, bf16: bool = False
    ) -> None:
        self._sum = torch.zeros(width, width, device=device)
        self._share, self._dice, self._bf16 = share, torch.Generator().manual_seed(0), bf16

    def add(self, inputs: Tensor) -> None:
        """Take in inputs [..., in]."""
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
        """The sum [in, in]; the object is not to be used afterwards."""
        for begin in range(COLUMNS, len(self._sum), COLUMNS):
            end = min(begin + COLUMNS, len(self._sum))
            self._sum[begin:end, :begin] = self._sum[:begin, begin:end].t()
        return self._sum


def output_error(weight: Tensor, replacement: Tensor, hessian: Tensor) -> float:
    """Relative squared error of a layer's outputs on the inputs of a Hessian H: tr(D H D^T) / tr(W H W^T)."""
    return energy(replacement - weight, hessian) / max(energy(weight, hessian), 1e-30)


def energy(weight: Tensor, hessian: Tensor) -> float:
    """The sum of squares that a weight [out, in] puts out for the inputs of a Hessian H: tr(W H W^T)."""
    weight = weight.float()
    return float((weight @ hessian).mul_(weight).sum())


def spread(outputs: int, most: int = 256) -> slice:
    """Output channels spread evenly over all, about `most` of them: enough to tell an error, where all would cost as much as making it."""
    return slice(None, None, max(1, outputs // most))
