"""Run column loops by recursive halving: nearly all arithmetic becomes large matrix products.

This applies the lazy batches of GPTQ (Frantar et al. 2022, section 3.3) recursively: when the left
half of the columns is done, its effect on the right half is added in one matrix product. Only a few
columns at a time are updated one by one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .grid import Grid

__all__ = [
    "LEAF",
    "grid_columns",
    "ordered_columns",
    "restored_integers",
    "visit_recursively",
]

LEAF = 16
"""Columns that are not split further."""


def visit_recursively(
    begin: int, end: int, leaf: Callable[[int, int], None], carry: Callable[[int, int, int], None]
) -> None:
    """Visit the columns from `begin` to `end`, in order.

    Args:
        begin: the first column.
        end: one past the last.
        leaf: processes a few columns one by one; gets the first column and one past the last.
        carry: applies the effect of a left half to the right half; gets the bounds (begin, middle,
            end).
    """
    if end - begin <= LEAF:
        leaf(begin, end)
        return
    middle = begin + -(-(end - begin) // (2 * LEAF)) * LEAF
    visit_recursively(begin, middle, leaf, carry)
    carry(begin, middle, end)
    visit_recursively(middle, end, leaf, carry)


def grid_columns(grid: Grid, order: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """The grid of every column in the given order (int64 [in]).

    Returns:
        For each column, float32 [out] each: the scale, and the smallest and largest centred
        integer, that is, integer minus zero point.
    """
    size = len(order) // grid.scales.shape[1]
    lowest = -grid.zeros
    sides = (grid.scales, lowest, lowest + (2**grid.bits - 1))
    groups = list(zip(*(side.t().contiguous() for side in sides), strict=True))
    return [groups[group] for group in (order // size).tolist()]


def ordered_columns(matrix: Tensor, order: Tensor) -> Tensor:
    """The columns of a matrix [out, in] in `order` (int64 [in]), as rows [in, out]."""
    return matrix.t().contiguous()[order]  # three times as fast as without `contiguous`


def restored_integers(centred: Tensor, order: Tensor, grid: Grid) -> Tensor:
    """Integers float32 [out, in] from centred ones, given as rows [in, out] in `order`."""
    rows = torch.empty_like(centred).index_copy_(0, order, centred)
    integers = rows.t().contiguous().float()
    integers.unflatten(1, (grid.zeros.shape[1], -1)).add_(grid.zeros.unsqueeze(-1))
    return integers
