"""2:4 sparsity as tensor functions: of four consecutive inputs of an output row, at most two have a weight.

The groups run along the input dimension of a weight [out, in], where sparse tensor cores look for them (Mishra et al. 2021,
section 3.1). `magnitude` keeps the two largest weights of a group. `sparsegpt` (Frantar & Alistarh 2023, algorithm 1) keeps those
whose removal would cost most, and lets every weight further right make up for what was removed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..quantize.gptq import inverse_factor

__all__ = ["GROUP", "is_two_four", "magnitude", "sparsegpt", "two_four_mask"]


KEEP, GROUP = 2, 4
BLOCK = 64
"""Columns updated together."""


def two_four_mask(scores: Tensor) -> Tensor:
    """Which two of every four consecutive inputs stay, those of highest score: bool [out, in] of scores [out, in]."""
    groups = scores.unflatten(1, (-1, GROUP))
    best = groups.topk(KEEP, dim=-1).indices
    return torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, best, value=True).flatten(1)


def is_two_four(weight: Tensor) -> bool:
    """Whether every group of four consecutive inputs of a weight [out, in] has at most two that are not zero."""
    if weight.shape[1] % GROUP:
        return False
    return bool(((weight.unflatten(1, (-1, GROUP)) != 0).sum(-1) <= KEEP).all())


def magnitude(weight: Tensor) -> Tensor:
    """A weight [out, in] with the two smallest of every four inputs set to zero; the baseline to beat."""
    return weight * two_four_mask(weight.abs())


def sparsegpt(weight: Tensor, hessian: Tensor, damp: float = 0.01) -> tuple[Tensor, float | None]:
    """A 2:4 weight whose outputs on the calibration inputs change least, by SparseGPT's greedy sweep over the columns.

    Args:
        weight: [out, in]; `in` divides by four.
        hessian: float32 [in, in], the sum of x x^T over the inputs; not changed.
        damp: share of the mean diagonal that is added to it; raised as in GPTQ when the factorisation fails.

    Returns:
        The sparse weight, float32 [out, in], and the damping used; None with the magnitude mask where the Hessian was unusable.
    """
    weight = weight.float()
    factor, used = inverse_factor(hessian, damp)
    return (magnitude(weight), None) if factor is None else (_sweep(weight.clone(), factor), used)


def _sweep(weight: Tensor, factor: Tensor) -> Tensor:
    """The column loop of the paper's algorithm 1; the mask of a group is chosen when the sweep reaches it (section 3.4)."""
    mask = torch.ones_like(weight, dtype=torch.bool)
    for begin in range(0, weight.shape[1], BLOCK):
        end = min(begin + BLOCK, weight.shape[1])
        errors = torch.zeros_like(weight[:, begin:end])
        for column in range(begin, end):
            if column % GROUP == 0:
                group = slice(column, column + GROUP)
                mask[:, group] = two_four_mask(
                    (weight[:, group] / factor.diagonal()[group]).square()
                )
            error = torch.where(mask[:, column], 0.0, weight[:, column] / factor[column, column])
            weight[:, column:end] -= torch.outer(error, factor[column, column:end])
            errors[:, column - begin] = error
        weight[:, end:] -= errors @ factor[begin:end, end:]
    return weight * mask
