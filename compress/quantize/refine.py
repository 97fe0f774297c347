"""Refinement after GPTQ: optimise scales and integers in turn, each with the other fixed.

GPTQ rounds every column once. Here, each column is rounded again, given the final values of all
other columns (coordinate descent: QuantEase, Behdin et al. 2023, section 3). The best scales of a
row, given its integers, are the solution of a small least-squares problem.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .blocked_columns import (
    grid_columns,
    ordered_columns,
    restored_integers,
    visit_recursively,
)
from .grid import SMALLEST_SCALE, Grid

__all__ = ["refine_scales", "refine_weights"]

ROWS = 1024
"""Rows of a matrix that are worked on at a time."""

FARTHEST = 1.5
"""Largest factor by which a scale may change. A larger change means an ill-conditioned system."""


def refine_weights(
    weight: Tensor, hessian: Tensor, integers: Tensor, grid: Grid, order: Tensor
) -> Tensor:
    """Do one sweep of coordinate descent over the columns. The error tr(D H D^T) cannot increase.

    Args:
        weight: float32 [out, in], the original weight.
        hessian: float32 [in, in], with a positive diagonal.
        integers: float32 [out, in], the start; not changed.
        grid: their scales and zero points.
        order: int64 [in], the order in which columns are visited.

    Returns:
        The integers, float32 [out, in].
    """
    return restored_integers(_sweep(weight, hessian, integers, grid, order), order, grid)


def _sweep(weight: Tensor, hessian: Tensor, integers: Tensor, grid: Grid, order: Tensor) -> Tensor:
    """The sweep of `refine_weights`, with rows for columns.

    This is a function of its own so that its working memory is freed before the result is copied.

    Returns:
        The integers minus their zero points, int16 [in, out], in the order visited.
    """
    columns = grid_columns(grid, order)
    before = _centred(integers, grid.zeros)
    centred = ordered_columns(before.to(torch.int16), order)
    rounded = _times(before, grid.scales)
    # Half the gradient of the error. The row of a visited column becomes the change of the column.
    slope = ordered_columns((rounded - weight) @ hessian, order)
    values = ordered_columns(rounded, order)
    del before, rounded

    def part(rows: slice, columns: slice) -> Tensor:
        """A block of the Hessian in the order visited. The whole would take too much memory."""
        return hessian[order[rows].unsqueeze(1), order[columns]]

    def leaf(begin: int, end: int) -> None:
        block = part(slice(begin, end), slice(begin, end))
        negative = (-block.diagonal()).tolist()
        for i, column in enumerate(range(begin, end)):
            scale, lowest, highest = columns[column]
            step = slope[column]
            # The best weight without rounding, given all other columns.
            new = torch.add(values[column], step, alpha=1 / negative[i])
            new.div_(scale).round_().clamp_(lowest, highest)
            centred[column] = new
            torch.sub(new.mul_(scale), values[column], out=step)
            if column + 1 < end:
                slope[column + 1 : end].addr_(block[i + 1 :, i], step)

    def carry(begin: int, middle: int, end: int) -> None:
        for start in range(middle, end, ROWS):
            rows = slice(start, min(start + ROWS, end))
            slope[rows].addmm_(part(rows, slice(begin, middle)), slope[begin:middle])

    visit_recursively(0, len(values), leaf, carry)
    return centred


def refine_scales(weight: Tensor, hessian: Tensor, integers: Tensor, grid: Grid) -> Grid:
    """Compute the scales of every row that minimise the output error, with the integers fixed.

    Args:
        weight: float32 [out, in].
        hessian: float32 [in, in].
        integers: float32 [out, in].
        grid: the scales to improve, and the zero points.
    """
    sides = (weight, integers, grid.scales, grid.zeros)
    parts = zip(*(side.split(ROWS) for side in sides), strict=True)
    scales = torch.cat([_best_scales(hessian, *part) for part in parts])
    return Grid(scales.half().float().clamp_min(SMALLEST_SCALE), grid.zeros, grid.bits)


def _best_scales(
    hessian: Tensor, weight: Tensor, integers: Tensor, scales: Tensor, zeros: Tensor
) -> Tensor:
    """The scales of some rows; see `refine_scales`.

    The error is quadratic in the scales, so one step of Newton's method finds its minimum.
    """
    out, groups = scales.shape
    size = weight.shape[1] // groups
    centred = _centred(integers, zeros)
    slope = ((_times(centred, scales) - weight) @ hessian).mul_(centred)
    system = torch.zeros(out, groups, groups, device=weight.device)
    for group, begin in enumerate(range(0, weight.shape[1], size)):
        effect = centred[:, begin : begin + size] @ hessian[begin : begin + size, begin:]
        effect *= centred[:, begin:]
        system[:, group, group:] = effect.view(out, -1, size).sum(-1)
    system += system.triu(1).mT
    diagonal = system.diagonal(dim1=1, dim2=2)
    diagonal.add_(1e-6 * diagonal.mean(-1, keepdim=True) + 1e-20)
    slopes = slope.view(out, groups, size).sum(-1, keepdim=True)
    step, failed = torch.linalg.solve_ex(system.double(), slopes.double())
    solved = scales - step.squeeze(-1).float()
    usable = (
        (solved > scales / FARTHEST) & (solved < scales * FARTHEST) & (failed == 0).unsqueeze(-1)
    )
    return torch.where(usable.all(-1, keepdim=True), solved, scales)


def _centred(integers: Tensor, zeros: Tensor) -> Tensor:
    """Integers [out, in] minus the zero points [out, groups]."""
    return (integers.unflatten(1, (zeros.shape[1], -1)) - zeros.unsqueeze(-1)).flatten(1)


def _times(centred: Tensor, scales: Tensor) -> Tensor:
    """Centred integers [out, in] times their scales [out, groups]."""
    return (centred.unflatten(1, (scales.shape[1], -1)) * scales.unsqueeze(-1)).flatten(1)
