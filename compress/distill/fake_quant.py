"""Fake quantization as tensor functions: round a weight to its grid, pass the gradient through.

The arithmetic is that of `round_to_grid` and `PackedLinear.dequantize`, operation for operation. So
the weights used in training are bit for bit those of the packed checkpoint.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...checkpoints.layouts import PackedLinear
from ..quantize.grid import round_to_grid

__all__ = ["fake_quantize", "grid_range", "move_into_cells", "pack"]

MARGIN = 1e-3
"""Distance from a cell's border to a weight moved into it, in grid steps.

It is far more than the rounding error of a float32 division.
"""


class _StraightThrough(torch.autograd.Function):
    """Value of the second tensor, gradient of the first (Bengio et al. 2013, section 4)."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, rounded: Tensor) -> Tensor:
        return rounded.view_as(weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def fake_quantize(weight: Tensor, scales: Tensor, zeros: Tensor, bits: int) -> Tensor:
    """Round a weight to the nearest grid points, with a straight-through gradient.

    Args:
        weight: float32 [out, in].
        scales: float32 [out, groups], exact float16 values.
        zeros: float32 [out, groups], zero points.
        bits: bits per integer.
    """
    with torch.no_grad():
        s = scales.unsqueeze(-1)
        z = zeros.unsqueeze(-1)
        integers = round_to_grid(weight.detach().view(*scales.shape, -1), s, z, bits)
        rounded = (integers - z) * s
    through: Any = _StraightThrough.apply(weight, rounded)  # torch does not type `apply`
    return through


def pack(weight: Tensor, start: PackedLinear) -> PackedLinear:
    """Round a weight [out, in] to integers on the grid of `start`."""
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
    """Return the lowest and highest weight [out, groups] that is rounded without clipping."""
    return (-zeros - 0.5) * scales, (2**bits - 1 - zeros + 0.5) * scales


def move_into_cells(weight: Tensor, start: PackedLinear, centred: float = 0.0) -> Tensor:
    """Move a weight [out, in] just far enough that it rounds to the integers of `start`.

    A cell is the range of weights that round to one integer.

    Args:
        weight: the weight that the integers were made from.
        start: the integers and their grid.
        centred: share of the remaining way to the centre of the cell to move as well.
    """
    grouped = start.integers.view(*start.scales.shape, -1).float()
    scales = start.scales.unsqueeze(-1)
    centre = (grouped - start.zeros.float().unsqueeze(-1)) * scales
    reach = (0.5 - MARGIN) * scales
    nearest = torch.clamp(weight.float().view_as(centre), centre - reach, centre + reach)
    return torch.lerp(nearest, centre, centred).view_as(weight)
