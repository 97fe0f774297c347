"""AWQ (Lin et al. 2023): scale up channels with large activations, and clip outlier weights.

Both choices are judged by the squared error of the outputs on the calibration inputs. With the
Hessian H (the sum of x x^T over these inputs) and the change D of a weight, that error is
tr(D H D^T), so that no candidate needs a run of the model.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...checkpoints.layouts import PackedLinear, Scheme
from .grid import fit_grid, round_to_grid
from .input_statistics import InputStatistics

__all__ = ["awq_factors", "round_clipped", "round_trip"]

RATIOS = 20
"""Number of exponents that are tried, from 0 (no scaling) to 1 (section 3.2 of the paper)."""
SHRINKS = 10
"""Number of clipped ranges that are tried, down to a half (weight clipping in AWQ's code)."""
ROWS = 256
"""Output channels, evenly spaced, that a candidate is judged on."""
LARGEST = 1e4
"""Largest factor on a channel; 1 / LARGEST is the smallest."""


def round_trip(weight: Tensor, scheme: Scheme) -> Tensor:
    """Round a float32 weight [out, in] to nearest and dequantize it.

    The largest weight of each group lies exactly on the grid, see `_range_factor`.
    """
    group_size = scheme.group(weight.shape[1])
    grid = fit_grid(weight * _range_factor(scheme), scheme.bits, group_size, scheme.sym, mse=False)
    grouped = weight.view(len(weight), -1, group_size)
    scales = grid.scales.unsqueeze(-1)
    zeros = grid.zeros.unsqueeze(-1)
    return ((round_to_grid(grouped, scales, zeros, scheme.bits) - zeros) * scales).view_as(weight)


def awq_factors(
    readers: Sequence[tuple[Tensor, Scheme]],
    inputs: InputStatistics,
    activity: Tensor,
    channels: Tensor,
) -> tuple[Tensor, float, float]:
    """Find factors on the writer's channels that minimise the error of the readers' outputs.

    Candidates are activity^a and activity^a / (size of the weights)^(1 - a), for exponents a from
    0 to 1. The first, with a = 0, is no scaling.

    Args:
        readers: float32 weights [out, in] that read the same input, each with its scheme.
        inputs: statistics of their inputs.
        activity: float32 [channels], the mean |x| of each channel of the writer.
        channels: int64 [in], the writer's channel behind each input channel.

    Returns:
        Factors float32 [channels], positive; the error without factors; the error with factors.
    """
    step = max(1, sum(len(weight) for weight, _ in readers) // ROWS)
    sample = [(weight[::step], scheme) for weight, scheme in readers]
    usable = activity > 0
    activity = torch.where(usable, activity, 1.0)
    sizes = _weight_sizes(sample, channels, len(activity))

    def error(factors: Tensor) -> float:
        wide = factors[channels]
        total = 0.0
        for weight, scheme in sample:
            change = round_trip(weight * wide, scheme) / wide - weight
            total += float(((change @ inputs.hessian) * change).sum())
        return total

    best = torch.ones_like(activity)
    before = least = error(best)
    for number in range(1, 2 * RATIOS + 1):
        ratio = (number + 1) // 2 / RATIOS
        trial = activity**ratio / (sizes ** (1 - ratio) if number % 2 else 1.0)
        trial = _normalized(torch.where(usable, trial, 1.0), usable)
        if (found := error(trial)) < least:
            best = trial
            least = found
    return best, before, least


def _range_factor(scheme: Scheme) -> float:
    """The factor on a group's range that puts its largest weight exactly on the grid.

    Without it, a symmetric grid of 2^bits steps ends half a step before the largest positive
    weight. Channels that were scaled up tend to have the largest weights.
    """
    top = 2**scheme.bits - 1
    return top / (top - 1) if scheme.sym else 1.0


def _weight_sizes(readers: Sequence[tuple[Tensor, Scheme]], channels: Tensor, count: int) -> Tensor:
    """Mean size of the weights of each channel, relative to the largest of their group.

    Returns:
        Float32 [channels].
    """
    relative = []
    for weight, scheme in readers:
        groups = weight.abs().view(len(weight), -1, scheme.group(weight.shape[1]))
        relative.append((groups / groups.amax(-1, keepdim=True).clamp_min(1e-8)).view_as(weight))
    means = torch.cat(relative).mean(0)
    total = torch.zeros(count, device=means.device).index_add_(0, channels, means)
    return (total / torch.bincount(channels, minlength=count)).clamp_min(1e-4)


def _normalized(factors: Tensor, usable: Tensor) -> Tensor:
    """Divide factors by the geometric mean of the largest and smallest; unused channels get 1."""
    if not bool(usable.any()):
        return factors
    middle = (factors[usable].max() * factors[usable].min()).sqrt()
    return torch.where(usable, (factors / middle).clamp(1 / LARGEST, LARGEST), 1.0)


def round_clipped(weight: Tensor, hessian: Tensor, scheme: Scheme) -> PackedLinear:
    """Round a weight [out, in], with the range of each group clipped where that lowers the error.

    Args:
        weight: float32 [out, in].
        hessian: float32 [in, in], the sum of x x^T over the inputs.
        scheme: bits, group size (which must divide `in`) and symmetry.
    """
    outputs, width = weight.shape
    size = scheme.group(width)
    groups = weight.view(outputs, -1, size)
    blocks = torch.stack([hessian[i : i + size, i : i + size] for i in range(0, width, size)])
    scales = torch.empty(0)
    zeros = torch.empty(0)
    least = torch.tensor(float("inf"))
    for number in range(SHRINKS + 1):
        shrink = _range_factor(scheme) * (1 - number / (2 * SHRINKS))
        grid = fit_grid(weight * shrink, scheme.bits, size, scheme.sym, mse=False)
        rounded = round_to_grid(
            groups, grid.scales.unsqueeze(-1), grid.zeros.unsqueeze(-1), scheme.bits
        )
        change = (
            (rounded - grid.zeros.unsqueeze(-1)) * grid.scales.unsqueeze(-1) - groups
        ).transpose(0, 1)
        error = (torch.bmm(change, blocks) * change).sum(-1).t()
        better = error < least
        if not number:
            scales = grid.scales
            zeros = grid.zeros
            least = error
        scales = torch.where(better, grid.scales, scales)
        zeros = torch.where(better, grid.zeros, zeros)
        least = torch.where(better, error, least)
    integers = round_to_grid(
        groups, scales.unsqueeze(-1), zeros.unsqueeze(-1), scheme.bits
    ).view_as(weight)
    return PackedLinear(integers.to(torch.uint8), scales, zeros.to(torch.uint8), scheme.bits, size)
