"""AWQ (Lin et al. 2023): input channels that carry large activations get finer weights, and outliers of a group are clipped.

Both choices are judged by the squared error of the outputs on the calibration inputs. With G the sum of x x^T over these
and D the change of a weight, that error is tr(D G D^T), so that no candidate needs a run of the model.
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
"""Exponents that are tried, from 0 (no scaling) to 1 (section 3.2 of the paper)."""
SHRINKS = 10
"""Widths of a group's range that are tried, from 1 down to a half (section 4.1 of the paper's code: weight clipping)."""
ROWS = 256
"""Output channels, spread over all, that a candidate is judged on."""
LARGEST = 1e4


def round_trip(weight: Tensor, scheme: Scheme) -> Tensor:
    """A float32 weight [out, in] after plain rounding, the largest weight of each group being on the grid."""
    group_size = scheme.group(weight.shape[1])
    grid = fit_grid(weight * _widest(scheme), scheme.bits, group_size, scheme.sym, mse=False)
    grouped, scales, zeros = (
        weight.view(len(weight), -1, group_size),
        grid.scales.unsqueeze(-1),
        grid.zeros.unsqueeze(-1),
    )
    return ((round_to_grid(grouped, scales, zeros, scheme.bits) - zeros) * scales).view_as(weight)


def awq_factors(
    readers: Sequence[tuple[Tensor, Scheme]],
    inputs: InputStatistics,
    activity: Tensor,
    channels: Tensor,
) -> tuple[Tensor, float, float]:
    """The factors on the writer's channels with which rounding changes the readers' outputs least.

    A candidate is activity^a, or activity^a / size of the weights^(1 - a); a = 0 without weights is no scaling.

    Args:
        readers: float32 weights [out, in] that read one input, and how each will be rounded.
        inputs: what they are given.
        activity: float32 [channels], the mean |x| of each channel of the writer.
        channels: int64 [in], the writer's channel behind each input channel.

    Returns:
        Factors float32 [channels], positive; the error without them, and with them.
    """
    step = max(1, sum(len(weight) for weight, _ in readers) // ROWS)
    some = [(weight[::step], scheme) for weight, scheme in readers]
    usable = activity > 0
    activity = torch.where(usable, activity, 1.0)
    weighty = _weight_size(some, channels, len(activity))

    def error(factors: Tensor) -> float:
        wide, total = factors[channels], 0.0
        for weight, scheme in some:
            change = round_trip(weight * wide, scheme) / wide - weight
            total += float(((change @ inputs.hessian) * change).sum())
        return total

    best = torch.ones_like(activity)
    before = least = error(best)
    for number in range(1, 2 * RATIOS + 1):
        ratio = (number + 1) // 2 / RATIOS
        trial = activity**ratio / (weighty ** (1 - ratio) if number % 2 else 1.0)
        trial = _normalised(torch.where(usable, trial, 1.0), usable)
        if (found := error(trial)) < least:
            best, least = trial, found
    return best, before, least


def _widest(scheme: Scheme) -> float:
    """What a group's range is stretched by, so that its largest weight is a whole number of steps from zero on either side.

    Without this, the symmetric grid of 2^b steps ends half a step before it, and channels that were scaled up tend to be largest.
    """
    top = 2**scheme.bits - 1
    return top / (top - 1) if scheme.sym else 1.0


def _weight_size(readers: Sequence[tuple[Tensor, Scheme]], channels: Tensor, count: int) -> Tensor:
    """How large the weights behind each channel are, each relative to the largest of its group: float32 [channels]."""
    relative = []
    for weight, scheme in readers:
        groups = weight.abs().view(len(weight), -1, scheme.group(weight.shape[1]))
        relative.append((groups / groups.amax(-1, keepdim=True).clamp_min(1e-8)).view_as(weight))
    means = torch.cat(relative).mean(0)
    total = torch.zeros(count, device=means.device).index_add_(0, channels, means)
    return (total / torch.bincount(channels, minlength=count)).clamp_min(1e-4)


def _normalised(factors: Tensor, usable: Tensor) -> Tensor:
    """Factors around 1: divided by the geometric mean of the largest and the smallest; unused channels keep 1."""
    if not bool(usable.any()):
        return factors
    middle = (factors[usable].max() * factors[usable].min()).sqrt()
    return torch.where(usable, (factors / middle).clamp(1 / LARGEST, LARGEST), 1.0)


def round_clipped(weight: Tensor, hessian: Tensor, scheme: Scheme) -> PackedLinear:
    """Round a weight [out, in], the range of each group cut to what changes the group's share of the outputs least.

    Args:
        weight: float32 [out, in].
        hessian: float32 [in, in], the sum of x x^T over the inputs.
        scheme: bits, group size (which must divide `in`) and symmetry.
    """
    outputs, width = weight.shape
    size = scheme.group(width)
    groups = weight.view(outputs, -1, size)
    blocks = torch.stack([hessian[i : i + size, i : i + size] for i in range(0, width, size)])
    scales, zeros, least = torch.empty(0), torch.empty(0), torch.tensor(float("inf"))
    for number in range(SHRINKS + 1):
        shrink = _widest(scheme) * (1 - number / (2 * SHRINKS))
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
            scales, zeros, least = grid.scales, grid.zeros, error
        scales, zeros = (
            torch.where(better, grid.scales, scales),
            torch.where(better, grid.zeros, zeros),
        )
        least = torch.where(better, error, least)
    integers = round_to_grid(
        groups, scales.unsqueeze(-1), zeros.unsqueeze(-1), scheme.bits
    ).view_as(weight)
    return PackedLinear(integers.to(torch.uint8), scales, zeros.to(torch.uint8), scheme.bits, size)
