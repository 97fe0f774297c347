"""GPTQ (Frantar et al. 2022): round one column at a time, and let the columns not yet rounded make up for the error.

The order of columns is static act-order: columns with the most energetic inputs go first, but every group's grid is
fixed from the original weight beforehand, so that the stored groups stay contiguous (`g_idx` is the identity). The grid is
chosen by the error that the sweep itself counts: that of a column, divided by what the others can make up for.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...checkpoints.layouts import PackedLinear, Scheme
from .blocked_columns import grid_columns, restore_order, visit_recursively
from .grid import Grid, fit_grid, round_to_grid
from .options import DAMP
from .refine import refine_scales, refine_weights

__all__ = ["GptqResult", "gptq", "refine_packed", "inverse_factor", "rtn"]


@dataclass(frozen=True)
class GptqResult:
    """A packed layer, and the damping that was needed (None when the Hessian was unusable and weights were just rounded)."""

    packed: PackedLinear
    damp: float | None


def rtn(weight: Tensor, scheme: Scheme, mse: bool = True) -> PackedLinear:
    """Round a weight [out, in] to the nearest grid point, group by group."""
    group_size = scheme.group(weight.shape[1])
    grid = fit_grid(weight.float(), scheme.bits, group_size, scheme.sym, mse)
    return _packed(_nearest(weight.float(), grid, group_size), grid, group_size)


def gptq(
    weight: Tensor,
    hessian: Tensor,
    scheme: Scheme,
    act_order: bool = True,
    damp: float = DAMP,
    refine: int = 0,
) -> GptqResult:
    """Quantize a weight so that its outputs on the calibration inputs change least.

    Args:
        weight: [out, in].
        hessian: float32 [in, in], the sum of x x^T over the inputs; not changed.
        scheme: bits, group size (which must divide `in`) and symmetry.
        act_order: columns by decreasing diagonal of the Hessian, with static groups.
        damp: share of the mean diagonal that is added to it; times ten, up to three times, when the factorisation fails.
        refine: times that scales and integers are improved in turn after the sweep (`refine.py`); 0 is the paper's algorithm.
    """
    weight = weight.float()
    width, bits = weight.shape[1], scheme.bits
    group_size = scheme.group(width)
    diagonal = hessian.diagonal()
    order = (
        diagonal.argsort(descending=True)
        if act_order
        else torch.arange(width, device=weight.device)
    )
    factor, used = inverse_factor(hessian, damp, order)
    if factor is None:
        return GptqResult(rtn(weight, scheme), None)
    cost = torch.empty_like(diagonal)
    cost[order] = factor.diagonal().square().reciprocal()
    grid = fit_grid(weight, bits, group_size, scheme.sym, cost=cost)
    columns = _sweep(weight, factor, grid, order)
    del factor  # as large as the Hessian: gone before anything else is made
    integers = restore_order(columns, order).float()
    if refine:
        integers, grid = _refined(weight, hessian, used or damp, integers, grid, order, refine)
    dead = (
        diagonal == 0
    )  # no input ever seen here: an update would be noise, the rounded weight is the best guess
    if bool(dead.any()):
        integers[:, dead] = _nearest(weight, grid, group_size)[:, dead]
    return GptqResult(_packed(integers, grid, group_size), used)


def refine_packed(
    packed: PackedLinear, weight: Tensor, hessian: Tensor, damp: float, times: int
) -> PackedLinear:
    """A rounded weight whose scales and integers were improved in turn so that its outputs change least, however it was rounded.

    Args:
        packed: what to start from, with consecutive groups.
        weight: float32 [out, in], what it approximates.
        hessian: float32 [in, in], the sum of x x^T over the inputs.
        damp: share of the mean diagonal that is added to it.
        times: how often.
    """
    diagonal = hessian.diagonal()
    if not times or not bool(torch.isfinite(mean := diagonal.mean())) or float(mean) <= 0:
        return packed
    grid, order = (
        Grid(packed.scales, packed.zeros.float(), packed.bits),
        diagonal.argsort(descending=True),
    )
    integers, grid = _refined(weight, hessian, damp, packed.integers.float(), grid, order, times)
    return _packed(integers, grid, packed.group_size)


def _refined(
    weight: Tensor,
    hessian: Tensor,
    damp: float,
    integers: Tensor,
    grid: Grid,
    order: Tensor,
    times: int,
) -> tuple[Tensor, Grid]:
    """Scales and integers in turn; damped as the sweep is, as few tokens say nothing about some directions."""
    diagonal = hessian.diagonal()
    before = diagonal.clone()
    diagonal.add_(
        damp * before.mean()
    )  # put back below: a Hessian can be large, and another copy too many
    for _ in range(times):
        grid = refine_scales(weight, hessian, integers, grid)
        integers = refine_weights(weight, hessian, integers, grid, order)
    diagonal.copy_(before)
    return integers, grid


def inverse_factor(
    hessian: Tensor, damp: float, order: Tensor | None = None
) -> tuple[Tensor | None, float | None]:
    """The upper Cholesky factor [in, in] of the damped inverse Hessian, in another order of channels if one is given, and the damping used.

    Of the Hessian one copy is made, in which everything takes place.
    """
    mean = hessian.diagonal().mean()
    if not bool(torch.isfinite(mean)) or float(mean) <= 0:
        return None, None
    for _ in range(4):
        system = (
            hessian.clone() if order is None else hessian[order.unsqueeze(1), order]
        ).mT  # LAPACK's order: nothing is copied
        system.diagonal().add_(damp * mean)
        if _inverted(system) and bool(
            torch.isfinite(torch.stack(torch.aminmax(system.mT))).all()
        ):  # not of each: that takes copies
            return system, damp
        damp *= 10
    return None, None


def _inverted(system: Tensor) -> bool:
    """Put the upper factor of the inverse in the place of a symmetric matrix; False if there is none."""
    failed = torch.empty((), dtype=torch.int32, device=system.device)
    torch.linalg.cholesky_ex(system, out=(system, failed))
    if bool(failed):
        return False
    torch.cholesky_inverse(system, out=system)
    torch.linalg.cholesky_ex(system, upper=True, out=(system, failed))
    return not bool(failed)


def _sweep(weight: Tensor, factor: Tensor, grid: Grid, order: Tensor) -> Tensor:
    """The column loop of the paper (algorithm 1) over the columns in `order`, whose factor is given: the integers, uint8 [in, out]."""
    w, columns = (
        weight.t()[order],
        grid_columns(grid, order),
    )  # a column is a row here, so that it lies together in memory
    integers = torch.empty(w.shape, dtype=torch.uint8, device=w.device)

    def leaf(begin: int, end: int) -> None:
        block = factor[begin:end, begin:end].contiguous()
        diagonal = block.diagonal().tolist()
        for i, column in enumerate(range(begin, end)):
            scale, zero = columns[column]
            error = w[column]  # becomes that: the column is not needed any more
            q = torch.div(error, scale).add_(zero).round_().clamp_(0, 2**grid.bits - 1)
            integers[column] = q
            error.addcmul_(q.sub_(zero), scale, value=-1).div_(diagonal[i])
            if column + 1 < end:
                w[column + 1 : end].addr_(block[i, i + 1 :], error, alpha=-1)

    def carry(begin: int, middle: int, end: int) -> None:
        w[middle:end].addmm_(factor[begin:middle, middle:end].t(), w[begin:middle], alpha=-1)

    visit_recursively(0, len(w), leaf, carry)
    return integers


def _nearest(weight: Tensor, grid: Grid, group_size: int) -> Tensor:
    scales, zeros = (t.repeat_interleave(group_size, 1) for t in (grid.scales, grid.zeros))
    return round_to_grid(weight, scales, zeros, grid.bits)


def _packed(integers: Tensor, grid: Grid, group_size: int) -> PackedLinear:
    return PackedLinear(
        integers.to(torch.uint8), grid.scales, grid.zeros.to(torch.uint8), grid.bits, group_size
    )
