"""The order in which column loops run: halves of halves, so that nearly all of their arithmetic is products of large matrices.

The lazy batches of GPTQ (Frantar et al. 2022, section 3.3), all the way down: what the left half of the columns does to the right one is
added in one product when the left one is done, and only a few columns at a time are brought up to date one by one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .grid import Grid

__all__ = ["LEAF", "grid_columns", "visit_recursively", "restore_order"]

LEAF = 16
"""Columns that are not halved any more."""


def visit_recursively(
    begin: int, end: int, leaf: Callable[[int, int], None], carry: Callable[[int, int, int], None]
) -> None:
    """Visit the columns from `begin` to `end`, in order.

    Args:
        begin: the first column.
        end: one past the last.
        leaf: given the first column and one past the last, works on a few columns.
        carry: given the bounds (first, middle, last) of two halves, takes what the left one did over to the right one.
    """
    if end - begin <= LEAF:
        leaf(begin, end)
        return
    middle = begin + -(-(end - begin) // (2 * LEAF)) * LEAF
    visit_recursively(begin, middle, leaf, carry)
    carry(begin, middle, end)
    visit_recursively(middle, end, leaf, carry)


def grid_columns(grid: Grid, order: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Scales and zero points, float32 [out] each, of the columns in the order that is given (int64 [in])."""
    size = len(order) // grid.scales.shape[1]
    groups = list(zip(grid.scales.t().contiguous(), grid.zeros.t().contiguous(), strict=True))
    return [groups[group] for group in (order // size).tolist()]


def restore_order(columns: Tensor, order: Tensor) -> Tensor:
    """A matrix [out, in] from its columns, given as rows [in, out] in another order (int64 [in])."""
    return torch.empty_like(columns).index_copy_(0, order, columns).t().contiguous()
