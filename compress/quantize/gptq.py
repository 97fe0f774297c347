"""GPTQ (Frantar et al. 2022): round a column at a time; the columns not yet rounded compensate.

The order of the columns is static act-order: columns with the largest input energy go first, but
the grid of every group is computed from the original weight beforehand. So the groups on disk are
consecutive columns (`g_idx` is the identity). The grid minimises the error as the sweep counts it:
the squared error of a column, weighted by how little the other columns can compensate.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...checkpoints.layouts import PackedLinear, Scheme
from ...checkpoints.tensors import all_finite
from .blocked_columns import (
    grid_columns,
    ordered_columns,
    restored_integers,
    visit_recursively,
)
from .grid import Grid, fit_grid, round_to_grid
from .options import DAMP
from .refine import refine_scales, refine_weights

__all__ = ["GptqResult", "feedback_factor", "gptq", "refine_packed", "rtn"]

CHUNK = 1 << 20
"""Values that are reversed at a time."""


@dataclass(frozen=True)
class GptqResult:
    """A packed layer, and the damping that was needed.

    The damping is None if the Hessian was unusable, so that the weights were rounded to nearest.
    """

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
    """Quantize a weight so that its outputs on the calibration inputs change as little as possible.

    Args:
        weight: [out, in].
        hessian: float32 [in, in], the sum of x x^T over the inputs; not changed.
        scheme: bits, group size (which must divide `in`) and symmetry.
        act_order: visit columns by decreasing diagonal of the Hessian, with static groups.
        damp: share of the mean diagonal that is added to the diagonal. If the factorization fails,
            it is multiplied by ten, up to three times.
        refine: rounds of improving scales and integers after the sweep (`refine.py`); 0 is the
            algorithm of the paper.
    """
    weight = weight.float()
    width = weight.shape[1]
    group_size = scheme.group(width)
    diagonal = hessian.diagonal()
    order = (
        diagonal.argsort(descending=True)
        if act_order
        else torch.arange(width, device=weight.device)
    )
    factor, costs, used = feedback_factor(hessian, damp, order)
    if factor is None:
        return GptqResult(rtn(weight, scheme), None)
    cost = torch.empty_like(diagonal)
    cost[order] = costs
    grid = fit_grid(weight, scheme.bits, group_size, scheme.sym, cost=cost)
    centred = _sweep(weight, factor, grid, order)
    del factor  # as large as the Hessian
    integers = restored_integers(centred, order, grid)
    if refine:
        integers, grid = _refined(weight, hessian, used or damp, integers, grid, order, refine)
    # Channels without any input: the updates there are noise, so round the original weights.
    dead = diagonal == 0
    if bool(dead.any()):
        integers[:, dead] = _nearest(weight, grid, group_size)[:, dead]
    return GptqResult(_packed(integers, grid, group_size), used)


def refine_packed(
    packed: PackedLinear, weight: Tensor, hessian: Tensor, damp: float, times: int
) -> PackedLinear:
    """Improve the scales and integers of a rounded weight, so that its outputs change less.

    Args:
        packed: the rounded weight, with groups of consecutive columns.
        weight: float32 [out, in], the original weight.
        hessian: float32 [in, in], the sum of x x^T over the inputs.
        damp: share of the mean diagonal that is added to the diagonal.
        times: rounds of improvement; 0 returns `packed`.
    """
    diagonal = hessian.diagonal()
    if not times or not bool(torch.isfinite(mean := diagonal.mean())) or float(mean) <= 0:
        return packed
    grid = Grid(packed.scales, packed.zeros.float(), packed.bits)
    order = diagonal.argsort(descending=True)
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
    """Improve scales and integers in turn, with the damping of the sweep.

    Without damping, the Hessian of few tokens is singular.
    """
    diagonal = hessian.diagonal()
    before = diagonal.clone()
    diagonal.add_(damp * before.mean())  # in place and undone below: a copy would take much memory
    for _ in range(times):
        grid = refine_scales(weight, hessian, integers, grid)
        integers = refine_weights(weight, hessian, integers, grid, order)
    diagonal.copy_(before)
    return integers, grid


def feedback_factor(
    hessian: Tensor, damp: float, order: Tensor | None = None
) -> tuple[Tensor | None, Tensor, float | None]:
    """Factor the damped Hessian H into U D U^T, where U is unit upper triangular, D diagonal.

    If all columns before k are rounded, and their errors (original minus rounded) are e, then the
    best weight of column k is its own plus the sum of e_j U[j, k], and a squared error of column k
    costs D[k]. This gives the same as the inverse of H in the GPTQ paper (Chee et al. 2023, QuIP,
    theorem 6), but H need not be inverted.

    Only one copy of the Hessian is made, and everything is computed in it.

    Args:
        hessian: float32 [in, in].
        damp: share of the mean diagonal that is added to the diagonal. If the factorization fails,
            it is multiplied by ten, up to three times.
        order: int64 [in], order of the channels in the result; None: unchanged.

    Returns:
        U [in, in], D [in], and the damping that was used. If the Hessian is unusable, the first and
        the last are None.
    """
    mean = hessian.diagonal().mean()
    if not bool(torch.isfinite(mean)) or float(mean) <= 0:
        return None, mean, None
    order = torch.arange(len(hessian), device=hessian.device) if order is None else order
    backwards = order.flip(0)
    failed = torch.empty((), dtype=torch.int32, device=hessian.device)
    for _ in range(4):
        copy = hessian[backwards.unsqueeze(1), backwards]
        system = copy.mT  # column-major, as LAPACK needs it: no copy is made
        system.diagonal().add_(damp * mean)
        torch.linalg.cholesky_ex(system, out=(system, failed))
        if not bool(failed) and all_finite(copy):
            roots = system.diagonal().clone()
            system.div_(roots)
            _reverse(copy)  # lower triangular and backwards becomes upper triangular in order
            return system, roots.flip(0).square(), damp
        damp *= 10
    return None, mean, None


def _reverse(matrix: Tensor) -> None:
    """Reverse the rows and the columns of a contiguous matrix in place, that is, all its values."""
    values = matrix.view(-1)
    for begin in range(0, len(values) // 2, CHUNK):
        front = slice(begin, min(begin + CHUNK, len(values) // 2))
        back = slice(len(values) - front.stop, len(values) - front.start)
        last = values[back].flip(0)
        values[back] = values[front].flip(0)
        values[front] = last


def _sweep(weight: Tensor, factor: Tensor, grid: Grid, order: Tensor) -> Tensor:
    """Round column by column. A column is a row here, so that it is contiguous in memory.

    Args:
        weight: float32 [out, in].
        factor: U of `feedback_factor`, with channels in `order`.
        grid: scales and zero points.
        order: int64 [in], the order of the columns.

    Returns:
        The integers minus their zero points, int16 [in, out], in `order`.
    """
    errors = ordered_columns(weight, order)  # where not rounded yet: the original weights
    wanted = errors.clone()
    columns = grid_columns(grid, order)
    centred = torch.empty(errors.shape, dtype=torch.int16, device=errors.device)

    def leaf(begin: int, end: int) -> None:
        block = factor[begin:end, begin:end].contiguous()
        for i, column in enumerate(range(begin, end)):
            scale, lowest, highest = columns[column]
            rounded = torch.div(wanted[column], scale).round_().clamp_(lowest, highest)
            centred[column] = rounded
            error = errors[column].addcmul_(rounded, scale, value=-1)
            if column + 1 < end:
                wanted[column + 1 : end].addr_(block[i, i + 1 :], error)

    def carry(begin: int, middle: int, end: int) -> None:
        wanted[middle:end].addmm_(factor[begin:middle, middle:end].t(), errors[begin:middle])

    visit_recursively(0, len(wanted), leaf, carry)
    return centred


def _nearest(weight: Tensor, grid: Grid, group_size: int) -> Tensor:
    """The nearest integers of a weight [out, in] on a grid."""
    scales, zeros = (t.repeat_interleave(group_size, 1) for t in (grid.scales, grid.zeros))
    return round_to_grid(weight, scales, zeros, grid.bits)


def _packed(integers: Tensor, grid: Grid, group_size: int) -> PackedLinear:
    """A packed layer of integers [out, in] on a grid."""
    return PackedLinear(
        integers.to(torch.uint8), grid.scales, grid.zeros.to(torch.uint8), grid.bits, group_size
    )
