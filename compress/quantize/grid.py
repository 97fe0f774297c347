"""Choose the scale and zero point of each group of weights, and round weights to that grid."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Grid", "fit_grid", "round_to_grid"]

SMALLEST_SCALE = 2.0**-24
"""The smallest positive float16: scales are stored in half precision and must not become zero."""
COARSE = [-0.08 * step for step in range(1, 7)]
FINE = [-0.05, -0.025, 0.025, 0.05]
"""Changes of the clipping factor that are tried: COARSE from 1, then FINE from the best one."""
CHUNK = 1 << 17
"""Weights that are searched at a time, few enough for the cache of the processor."""


@dataclass(frozen=True)
class Grid:
    """Scales float32 [out, groups] (exact float16 values) and zero points float32 [out, groups]."""

    scales: Tensor
    zeros: Tensor
    bits: int


def fit_grid(
    weight: Tensor,
    bits: int,
    group_size: int,
    sym: bool,
    mse: bool = True,
    cost: Tensor | None = None,
) -> Grid:
    """Choose the scale of every group of `group_size` input channels.

    Args:
        weight: float32 [out, in], `in` divisible by `group_size`.
        bits: bits per weight.
        group_size: input channels that share a scale.
        sym: the zero point is the middle of the range; otherwise, the range follows the smallest
            and largest weight.
        mse: search the clipping factor in 0.5 .. 1 that has the least error.
        cost: float32 [in], the cost of a squared error in each channel. Without it, the measure is
            the sum of |error|^2.4, as in the code of the GPTQ authors.
    """
    rows = max(1, CHUNK // weight.shape[1])
    parts = [
        _fit_rows(weight[begin : begin + rows], bits, group_size, sym, mse, cost)
        for begin in range(0, len(weight), rows)
    ]
    return Grid(
        torch.cat([part.scales for part in parts]), torch.cat([part.zeros for part in parts]), bits
    )


def _fit_rows(
    weight: Tensor, bits: int, group_size: int, sym: bool, mse: bool, cost: Tensor | None
) -> Grid:
    """The grid of some rows; see `fit_grid`."""
    groups = weight.view(weight.shape[0], -1, group_size)
    top = 2**bits - 1
    high = groups.amax(-1).clamp_min(0)
    low = groups.amin(-1).clamp_max(0)
    if sym:
        high = torch.maximum(high, -low)
        low = -high
    else:
        # The zero point must be at least 1: the layout stores it minus 1, and a -1 would spill into
        # the neighbouring zero point.
        low = torch.minimum(low, -high / (top - 1))
    best = _grid(low, high, bits, top, sym)
    if not mse:
        return best
    costs = None if cost is None else cost.view(1, -1, group_size)
    least = _error(groups, best, costs)
    factors = torch.ones_like(best.scales)
    for steps in (COARSE, FINE):
        around = factors
        for step in steps:
            trial_factors = (around + step).clamp_max(1)
            trial = _grid(low * trial_factors, high * trial_factors, bits, top, sym)
            error = _error(groups, trial, costs)
            better = error < least
            least = torch.where(better, error, least)
            factors = torch.where(better, trial_factors, factors)
            best = Grid(
                torch.where(better, trial.scales, best.scales),
                torch.where(better, trial.zeros, best.zeros),
                bits,
            )
    return best


def _grid(low: Tensor, high: Tensor, bits: int, top: int, sym: bool) -> Grid:
    """The grid that spans `low` to `high`; `top` is the largest integer."""
    scales = ((high - low) / top).half().float().clamp_min(SMALLEST_SCALE)
    zeros = (
        torch.full_like(scales, 2.0 ** (bits - 1)) if sym else (-low / scales).round().clamp(1, top)
    )
    return Grid(scales, zeros, bits)


def _error(groups: Tensor, grid: Grid, costs: Tensor | None) -> Tensor:
    """The rounding error of each group [out, groups]; see `fit_grid` for the measure."""
    scales = grid.scales.unsqueeze(-1)
    zeros = grid.zeros.unsqueeze(-1)
    off = (
        (groups / scales)
        .add_(zeros)
        .round_()
        .clamp_(0, 2**grid.bits - 1)
        .sub_(zeros)
        .mul_(scales)
        .sub_(groups)
    )
    return (off.abs_().pow_(2.4) if costs is None else off.square_().mul_(costs)).sum(-1)


def round_to_grid(weight: Tensor, scales: Tensor, zeros: Tensor, bits: int) -> Tensor:
    """The nearest integers in [0, 2**bits), as float32. Scales and zero points are broadcast."""
    return (weight / scales + zeros).round().clamp(0, 2**bits - 1)
