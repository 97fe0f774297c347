"""GPTQ (Frantar et al. 2022): round one column at a time, and let the columns not yet rounded make up for the error.

The order of columns is static act-order: columns with the most energetic inputs go first, but every group's grid is
fixed from the original weight beforehand, so that the stored groups stay contiguous (`g_idx` is the identity).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...layouts import PackedLinear, Scheme
from .grid import Grid, fit_grid, round_to_grid

__all__ = ["BLOCK", "Quantized", "add_to_hessian", "gptq", "inverse_factor", "output_error", "rtn"]

BLOCK = 128
"""Columns updated together (the lazy batch of the paper, section 3.3)."""


@dataclass(frozen=True)
class Quantized:
    """A packed layer, and the damping that was needed (None when the Hessian was unusable and weights were just rounded)."""

    packed: PackedLinear
    damp: float | None


def add_to_hessian(hessian: Tensor, inputs: Tensor) -> None:
    """Add inputs [..., in] to the sum of outer products [in, in]; float32, as bfloat16 sums are not positive definite."""
    x = inputs.reshape(-1, inputs.shape[-1]).float()
    hessian.addmm_(x.t(), x)


def rtn(weight: Tensor, scheme: Scheme, mse: bool = True) -> PackedLinear:
    """Round a weight [out, in] to the nearest grid point, group by group."""
    group_size = scheme.group(weight.shape[1])
    grid = fit_grid(weight.float(), scheme.bits, group_size, scheme.sym, mse)
    scales, zeros = (t.repeat_interleave(group_size, 1) for t in (grid.scales, grid.zeros))
    return _packed(round_to_grid(weight.float(), scales, zeros, scheme.bits), grid, group_size)


def gptq(weight: Tensor, hessian: Tensor, scheme: Scheme, act_order: bool = True, damp: float = 0.01) -> Quantized:
    """Quantize a weight so that its outputs on the calibration inputs change least.

    Args:
        weight: [out, in].
        hessian: float32 [in, in], the sum of x x^T over the inputs; not changed.
        scheme: bits, group size (which must divide `in`) and symmetry.
        act_order: columns by decreasing diagonal of the Hessian, with static groups.
        damp: share of the mean diagonal that is added to it; times ten, up to three times, when the factorisation fails.
    """
    width, bits = weight.shape[1], scheme.bits
    group_size = scheme.group(width)
    grid = fit_grid(weight.float(), bits, group_size, scheme.sym)
    diagonal = hessian.diagonal()
    order = diagonal.argsort(descending=True) if act_order else torch.arange(width, device=weight.device)
    factor, used = inverse_factor(hessian[order][:, order], damp)
    if factor is None:
        return Quantized(rtn(weight, scheme), None)
    group_of = order // group_size
    scales, zeros = grid.scales[:, group_of], grid.zeros[:, group_of]
    integers = _sweep(weight.float()[:, order], factor, scales, zeros, bits)
    undone = torch.empty_like(integers)
    undone[:, order] = integers
    dead = diagonal == 0  # no input ever seen here: an update would be noise, the rounded weight is the best guess
    if bool(dead.any()):
        every = torch.arange(width, device=weight.device) // group_size
        plain = round_to_grid(weight.float(), grid.scales[:, every], grid.zeros[:, every], bits)
        undone[:, dead] = plain[:, dead]
    return Quantized(_packed(undone, grid, group_size), used)


def inverse_factor(hessian: Tensor, damp: float) -> tuple[Tensor | None, float | None]:
    """The upper Cholesky factor of the damped inverse Hessian, and the damping that it took."""
    mean = hessian.diagonal().mean()
    if not bool(torch.isfinite(mean)) or float(mean) <= 0:
        return None, None
    for _ in range(4):
        damped = hessian.clone()
        damped.diagonal().add_(damp * mean)
        lower, failed = torch.linalg.cholesky_ex(damped)
        if not bool(failed):
            upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
            if not bool(failed) and bool(torch.isfinite(upper).all()):
                return upper, damp
        damp *= 10
    return None, None


def _sweep(weight: Tensor, factor: Tensor, scales: Tensor, zeros: Tensor, bits: int) -> Tensor:
    """The column loop of the paper (algorithm 1): returns the integers, float32 [out, in], in the order given."""
    weight, integers = weight.clone(), torch.empty_like(weight)
    for begin in range(0, weight.shape[1], BLOCK):
        end = min(begin + BLOCK, weight.shape[1])
        errors = torch.zeros_like(weight[:, begin:end])
        for column in range(begin, end):
            w, scale, zero = weight[:, column], scales[:, column], zeros[:, column]
            q = round_to_grid(w, scale, zero, bits)
            integers[:, column] = q
            error = (w - (q - zero) * scale) / factor[column, column]
            weight[:, column:end] -= torch.outer(error, factor[column, column:end])
            errors[:, column - begin] = error
        weight[:, end:] -= errors @ factor[begin:end, end:]
    return integers


def _packed(integers: Tensor, grid: Grid, group_size: int) -> PackedLinear:
    return PackedLinear(integers.to(torch.uint8), grid.scales, grid.zeros.to(torch.uint8), grid.bits, group_size)


def output_error(weight: Tensor, replacement: Tensor, hessian: Tensor) -> float:
    """Relative squared error of the layer's outputs on the calibration inputs: tr(D H D^T) / tr(W H W^T)."""
    difference = (replacement - weight).float()
    reference = float(((weight.float() @ hessian) * weight.float()).sum())
    return float(((difference @ hessian) * difference).sum()) / max(reference, 1e-30)
