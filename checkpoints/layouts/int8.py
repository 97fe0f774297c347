"""Weights and activations in 8 bits: both symmetric around zero, integers from -127 to 127."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .packed import Int8Inputs, PackedLinear

__all__ = ["pack_int8", "round_inputs", "rounds_inputs"]

TOP = 127
SMALLEST = 1e-12


def pack_int8(weight: Tensor, peak: float | None) -> PackedLinear:
    """Round a weight [out, in] with one scale per output channel.

    Args:
        weight: float, of any type.
        peak: the largest activation that a fixed input scale must hold; None: one scale per token.
    """
    weight = weight.float()
    scales = (weight.abs().amax(1, keepdim=True) / TOP).clamp_min(SMALLEST)
    integers = (weight / scales).round().clamp(-TOP, TOP) + 128
    zeros = torch.full_like(scales, 128)
    inputs = Int8Inputs(None if peak is None else max(peak / TOP, SMALLEST))
    return PackedLinear(
        integers.to(torch.uint8), scales, zeros.to(torch.uint8), 8, weight.shape[1], inputs
    )


def round_inputs(x: Tensor, inputs: Int8Inputs) -> Tensor:
    """Activations [..., in] rounded to one of 255 values, with the fixed scale or one per token."""
    wide = x.float()
    scale = (
        wide.abs().amax(-1, keepdim=True).clamp_min(SMALLEST) / TOP
        if inputs.scale is None
        else inputs.scale
    )
    return ((wide / scale).round().clamp(-TOP, TOP) * scale).to(x.dtype)


def rounds_inputs(linear: nn.Module, inputs: Int8Inputs) -> Any:
    """Make a linear layer round its inputs; `remove()` of the returned handle undoes it."""
    return linear.register_forward_pre_hook(partial(_rounded, inputs))


def _rounded(inputs: Int8Inputs, _module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return (round_inputs(args[0], inputs), *args[1:])
