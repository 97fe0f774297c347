"""Scales and zero points: the grid that weights are rounded to, chosen a group at a time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Grid", "fit_grid", "round_to_grid"]

SMALLEST_SCALE = 2.0**-24
"""The smallest positive float16: scales are stored in half precision and must not become zero."""
COARSE, FINE = [-0.08 * step for step in range(1, 7)], [-0.05, -0.025, 0.025, 0.05]
"""Steps of the clipping factor that are tried, from 1 and from the best of those."""
CHUNK = 1 << 17
"""Weights that are searched together."""


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
        bits: bits of an integer.
        group_size: input channels that share a scale.
        sym: the zero point is the middle of the range; else the range follows the smallest and largest weight.
        mse: search a clipping factor in 0.5 .. 1 for the least error.
        cost: float32 [in], what a squared error costs in each channel; without it, errors count by their 2.4th power, the
            norm of the GPTQ authors' code.
    """
    rows = max(1, CHUNK // weight.shape[1])  # few enough for the processor's cache
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
    groups = weight.view(weight.shape[0], -1, group_size)
    top = 2**bits - 1
    high, low = groups.amax(-1).clamp_min(0), groups.amin(-1).clamp_max(0)
    if sym:
        high = torch.maximum(high, -low)
        low = -high
    else:
        low = torch.minimum(
            low, -high / (top - 1)
        )  # a zero point of 0 is stored as -1, which readers carry into its neighbour
    best = _grid(low, high, bits, top, sym)
    if not mse:
        return best
    costs = None if cost is None else cost.view(1, -1, group_size)
    least = _error(groups, best, costs)
    factors = torch.ones_like(best.scales)
    for reach in (COARSE, FINE):  # first over the whole range, then around the best
        around = factors
        for step in reach:
            trial_factors = (around + step).clamp_max(1)
            trial = _grid(low * trial_factors, high * trial_factors, bits, top, sym)
            error = _error(groups, trial, costs)
            better = error < least
            least, factors = (
                torch.where(better, error, least),
                torch.where(better, trial_factors, factors),
            )
            best = Grid(
                torch.where(better, trial.scales, best.scales),
                torch.where(better, trial.zeros, best.zeros),
                bits,
            )
    return best


def _grid(low: Tensor, high: Tensor, bits: int, top: int, sym: bool) -> Grid:
    scales = ((high - low) / top).half().float().clamp_min(SMALLEST_SCALE)
    zeros = (
        torch.full_like(scales, 2.0 ** (bits - 1)) if sym else (-low / scales).round().clamp(1, top)
    )
    return Grid(scales, zeros, bits)


def _error(groups: Tensor, grid: Grid, costs: Tensor | None) -> Tensor:
    scales, zeros = grid.scales.unsqueeze(-1), grid.zeros.unsqueeze(-1)
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
    """The nearest integers in [0, 2**bits), as float32; the shapes of scales and zeros broadcast."""
    return (weight / scales + zeros).round().clamp(0, 2**bits - 1)
