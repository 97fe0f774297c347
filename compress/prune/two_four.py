"""2:4 sparsity as tensor functions: of four consecutive weights of a row, at most two are not zero.

The groups run along the input dimension of a weight [out, in], as sparse tensor cores expect
(Mishra et al. 2021, section 3.1). `magnitude` keeps the two largest weights of a group. `sparsegpt`
(Frantar & Alistarh 2023, algorithm 1) removes those that change the outputs least, and corrects the
weights further right for what was removed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..quantize.gptq import feedback_factor

__all__ = ["GROUP", "is_two_four", "magnitude", "sparsegpt", "two_four_mask"]


KEEP = 2
"""Weights of a group that stay."""
GROUP = 4
"""Consecutive weights of a row."""
BLOCK = 64
"""Columns updated together."""


def two_four_mask(scores: Tensor) -> Tensor:
    """Mark the two highest scores of every four: bool [out, in] from scores [out, in]."""
    groups = scores.unflatten(1, (-1, GROUP))
    best = groups.topk(KEEP, dim=-1).indices
    return torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, best, value=True).flatten(1)


def is_two_four(weight: Tensor) -> bool:
    """Whether at most two of every four consecutive weights of [out, in] are not zero."""
    if weight.shape[1] % GROUP:
        return False
    return bool(((weight.unflatten(1, (-1, GROUP)) != 0).sum(-1) <= KEEP).all())


def magnitude(weight: Tensor) -> Tensor:
    """Set the two smallest of every four weights of [out, in] to zero; the baseline."""
    return weight * two_four_mask(weight.abs())


def sparsegpt(weight: Tensor, hessian: Tensor, damp: float = 0.01) -> tuple[Tensor, float | None]:
    """Make a weight 2:4 sparse so that its outputs on calibration inputs change little.

    Args:
        weight: [out, in]; four divides `in`.
        hessian: float32 [in, in], the sum of x x^T over the inputs; not changed.
        damp: share of the mean diagonal that is added to it. As in GPTQ, it is raised until the
            Hessian can be factorised.

    Returns:
        The sparse weight, float32 [out, in], and the damping used. If the Hessian cannot be
        factorised, the weight is pruned by magnitude, and the damping is None.
    """
    weight = weight.float()
    factor, costs, used = feedback_factor(hessian, damp)
    if factor is None:
        return magnitude(weight), None
    effects = torch.eye(len(factor), device=factor.device)
    torch.linalg.solve_triangular(factor, effects, upper=True, unitriangular=True, out=effects)
    return _sweep(weight.clone(), effects, costs), used


def _sweep(weight: Tensor, effects: Tensor, costs: Tensor) -> Tensor:
    """The column loop of algorithm 1; a group's mask is chosen when it is reached (section 3.4).

    Args:
        weight: float32 [out, in]; overwritten.
        effects: float32 [in, in], unit upper triangular; in row i, the change of every column that
            best compensates for column i, if that column loses one.
        costs: float32 [in], the error if a weight of 1 is removed from a column.
    """
    mask = torch.ones_like(weight, dtype=torch.bool)
    for begin in range(0, weight.shape[1], BLOCK):
        end = min(begin + BLOCK, weight.shape[1])
        errors = torch.zeros_like(weight[:, begin:end])
        for column in range(begin, end):
            if column % GROUP == 0:
                group = slice(column, column + GROUP)
                mask[:, group] = two_four_mask(weight[:, group].square() * costs[group])
            error = torch.where(mask[:, column], 0.0, weight[:, column])
            weight[:, column:end] -= torch.outer(error, effects[column, column:end])
            errors[:, column - begin] = error
        weight[:, end:] -= errors @ effects[begin:end, end:]
    return weight * mask
