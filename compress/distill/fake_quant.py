"""Fake quantization as tensor functions: a weight computes as the grid points nearest to it, and learns as if it did not.

The arithmetic is that of `round_to_grid` and of `PackedLinear.dequantize`, operation for operation, so that what is learnt with
is bit for bit what a packed checkpoint holds.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...checkpoints.layouts import PackedLinear
from ..quantize.grid import round_to_grid

__all__ = ["fake_quantize", "grid_range", "into_cells", "pack"]

MARGIN = 1e-3
"""Steps between a weight that is moved into a cell and the cell's border: far more than float32 can lose in a division."""


class _StraightThrough(torch.autograd.Function):
    """The value of the second tensor with the gradient of the first (Bengio et al. 2013, section 4)."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, rounded: Tensor) -> Tensor:
        return rounded.view_as(weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def fake_quantize(weight: Tensor, scales: Tensor, zeros: Tensor, bits: int) -> Tensor:
    """The grid points nearest to a weight, with a gradient that passes straight through.

    Args:
        weight: float32 [out, in].
        scales: float32 [out, groups], exact float16 values.
        zeros: float32 [out, groups].
        bits: bits of an integer.
    """
    with torch.no_grad():
        s, z = scales.unsqueeze(-1), zeros.unsqueeze(-1)
        integers = round_to_grid(weight.detach().view(*scales.shape, -1), s, z, bits)
        rounded = (integers - z) * s
    through: Tensor = _StraightThrough.apply(weight, rounded)  # pyright: ignore[reportAssignmentType]
    return through


def pack(weight: Tensor, start: PackedLinear) -> PackedLinear:
    """The integers that a weight [out, in] computes with on the grid of `start`."""
    grouped = weight.float().view(*start.scales.shape, -1)
    integers = round_to_grid(
        grouped, start.scales.unsqueeze(-1), start.zeros.float().unsqueeze(-1), start.bits
    )
    return PackedLinear(
        integers.to(torch.uint8).view_as(weight),
        start.scales,
        start.zeros,
        start.bits,
        start.group_size,
    )


def grid_range(scales: Tensor, zeros: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """The lowest and the highest weight [out, groups] that the grid rounds without clipping."""
    return (-zeros - 0.5) * scales, (2**bits - 1 - zeros + 0.5) * scales


def into_cells(weight: Tensor, start: PackedLinear, centred: float = 0.0) -> Tensor:
    """The weight [out, in], moved no further than it takes to be rounded to the integers of `start`.

    Args:
        weight: what the integers were made from.
        start: the integers and their grid.
        centred: move it this share of the rest of the way to the centre of its cell.
    """
    grouped = start.integers.view(*start.scales.shape, -1).float()
    scales, centre = (
        start.scales.unsqueeze(-1),
        (grouped - start.zeros.float().unsqueeze(-1)) * start.scales.unsqueeze(-1),
    )
    reach = (0.5 - MARGIN) * scales
    nearest = torch.clamp(weight.float().view_as(centre), centre - reach, centre + reach)
    return torch.lerp(nearest, centre, centred).view_as(weight)
