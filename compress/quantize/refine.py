"""After GPTQ: scales and integers improved in turn, each exactly for the other fixed.

GPTQ decides every column once and never looks back. Here a column is rounded again, given all the others as they have become
(coordinate descent: QuantEase, Behdin et al. 2023, section 3); and the scales of a row, given its integers, are a small
least-squares problem.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .blocked_columns import grid_columns, restore_order, visit_recursively
from .grid import SMALLEST_SCALE, Grid

__all__ = ["refine_scales", "refine_weights"]

ROWS = 1024
"""Of the Hessian, put in order at a time."""

FARTHEST = 1.5
"""A scale may change by this factor at most: past it the system was ill-conditioned."""


def refine_weights(
    weight: Tensor, hessian: Tensor, integers: Tensor, grid: Grid, order: Tensor
) -> Tensor:
    """One sweep of coordinate descent over the columns; the error tr(D H D^T) cannot rise.

    Args:
        weight: float32 [out, in], what is approximated.
        hessian: float32 [in, in], with a diagonal above zero.
        integers: float32 [out, in], to start from; not changed.
        grid: their scales and zero points.
        order: int64 [in], in which columns are visited.

    Returns:
        The integers, float32 [out, in].
    """
    return restore_order(_visited(weight, hessian, integers, grid, order), order).float()


def _visited(
    weight: Tensor, hessian: Tensor, integers: Tensor, grid: Grid, order: Tensor
) -> Tensor:
    """The sweep of `refine_weights`: the integers, uint8 [in, out], in the order visited; what it holds is gone before they are copied."""
    w, q = weight.t()[order], integers.t()[order].to(torch.uint8)
    columns = grid_columns(grid, order)
    off = torch.empty_like(w)  # how far each weight is from its own
    for column, (scale, zero) in enumerate(columns):
        torch.sub(q[column], zero, out=off[column]).mul_(scale).sub_(w[column])

    def part(rows: slice, columns: slice) -> Tensor:
        """Of the Hessian in the order visited, which is never whole: it would be the largest thing in memory."""
        return hessian[order[rows].unsqueeze(1), order[columns]]

    slope = torch.empty_like(
        w
    )  # of the error, halved; once a column was visited, its row tells by how much it moved
    for begin in range(0, len(w), ROWS):
        torch.mm(part(rows := slice(begin, begin + ROWS), slice(None)), off, out=slope[rows])

    def leaf(begin: int, end: int) -> None:
        block = part(slice(begin, end), slice(begin, end))
        negative = (-block.diagonal()).tolist()
        for i, column in enumerate(range(begin, end)):
            (scale, zero), step = columns[column], slope[column]
            new = torch.add(off[column], step, alpha=1 / negative[i]).add_(
                w[column]
            )  # the best weight, if it were free
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
    """The scales of every row that put its outputs nearest to the original's, for integers that stay as they are.

    Args:
        weight: float32 [out, in].
        hessian: float32 [in, in].
        integers: float32 [out, in].
        grid: with the scales to improve.
    """
    (out, width), groups = weight.shape, grid.scales.shape[1]
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
