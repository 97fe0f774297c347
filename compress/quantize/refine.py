"""Refinement after GPTQ: optimise scales and integers in turn, each with the other fixed.

GPTQ rounds every column once. Here, each column is rounded again, given the final values of all
other columns (coordinate descent: QuantEase, Behdin et al. 2023, section 3). The best scales of a
row, given its integers, are the solution of a small least-squares problem.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .blocked_columns import grid_columns, restore_order, visit_recursively
from .grid import SMALLEST_SCALE, Grid

__all__ = ["refine_scales", "refine_weights"]

ROWS = 1024
"""Rows of the Hessian that are reordered at a time."""

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
    return restore_order(_sweep(weight, hessian, integers, grid, order), order).float()


def _sweep(weight: Tensor, hessian: Tensor, integers: Tensor, grid: Grid, order: Tensor) -> Tensor:
    """The sweep of `refine_weights`, with rows for columns.

    This is a function of its own so that its working memory is freed before the result is copied.

    Returns:
        The integers, uint8 [in, out], in the order visited.
    """
    w = weight.t()[order]
    q = integers.t()[order].to(torch.uint8)
    columns = grid_columns(grid, order)
    off = torch.empty_like(w)  # the change of each weight by rounding
    for column, (scale, zero) in enumerate(columns):
        torch.sub(q[column], zero, out=off[column]).mul_(scale).sub_(w[column])

    def part(rows: slice, columns: slice) -> Tensor:
        """A block of the Hessian in the order visited. The whole would take too much memory."""
        return hessian[order[rows].unsqueeze(1), order[columns]]

    # Half the gradient of the error. The row of a visited column becomes the change of the column.
    slope = torch.empty_like(w)
    for begin in range(0, len(w), ROWS):
        rows = slice(begin, begin + ROWS)
        torch.mm(part(rows, slice(None)), off, out=slope[rows])

    def leaf(begin: int, end: int) -> None:
        block = part(slice(begin, end), slice(begin, end))
        negative = (-block.diagonal()).tolist()
        for i, column in enumerate(range(begin, end)):
            scale, zero = columns[column]
            step = slope[column]
            # The best weight without rounding, given all other columns.
            new = torch.add(off[column], step, alpha=1 / negative[i]).add_(w[column])
            new.div_(scale).add_(zero).round_().clamp_(0, 2**grid.bits - 1)
            q[column] = new
            new.sub_(zero).mul_(scale).sub_(w[column])
            torch.sub(new, off[column], out=step)
            if column + 1 < end:
                slope[column + 1 : end].addr_(block[i + 1 :, i], step)

    def carry(begin: int, middle: int, end: int) -> None:
        for start in range(middle, end, ROWS):
            rows = slice(start, min(start + ROWS, end))
            slope[rows].addmm_(part(rows, slice(begin, middle)), slope[begin:middle])

    visit_recursively(0, len(w), leaf, carry)
    return q


def refine_scales(weight: Tensor, hessian: Tensor, integers: Tensor, grid: Grid) -> Grid:
    """Compute the scales of every row that minimise the output error, with the integers fixed.

    Args:
        weight: float32 [out, in].
        hessian: float32 [in, in].
        integers: float32 [out, in].
        grid: the scales to improve, and the zero points.
    """
    out, width = weight.shape
    groups = grid.scales.shape[1]
    size = width // groups
    centred = (integers.view(out, groups, size) - grid.zeros.unsqueeze(-1)).view(out, width)
    wanted = ((weight @ hessian) * centred).view(out, groups, size).sum(-1)
    system = torch.empty(out, groups, groups, device=weight.device)
    for group in range(groups):
        part = slice(group * size, (group + 1) * size)
        system[:, group] = (
            ((centred[:, part] @ hessian[part]) * centred).view(out, groups, size).sum(-1)
        )
    diagonal = system.diagonal(dim1=1, dim2=2)
    diagonal.add_(1e-6 * diagonal.mean(-1, keepdim=True) + 1e-20)
    solved, failed = torch.linalg.solve_ex(system.double(), wanted.double().unsqueeze(-1))
    solved = solved.squeeze(-1).float()
    usable = (
        (solved > grid.scales / FARTHEST)
        & (solved < grid.scales * FARTHEST)
        & (failed == 0).unsqueeze(-1)
    )
    scales = torch.where(usable.all(-1, keepdim=True), solved, grid.scales)
    return Grid(scales.half().float().clamp_min(SMALLEST_SCALE), grid.zeros, grid.bits)
