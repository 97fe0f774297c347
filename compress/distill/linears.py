"""The linear layers of a student's decoder layers, and packed ones on another device."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ...checkpoints.layouts import PackedLinear
from ...models import Architecture, decoder_layers

__all__ = ["decoder_linears", "to_device"]


def decoder_linears(student: Any, architecture: Architecture) -> dict[str, nn.Linear]:
    """Return the linear layers of every decoder layer by full name; routed experts are left out."""
    found: dict[str, nn.Linear] = {}
    modules = decoder_layers(student, architecture)
    for module, layer in zip(modules, architecture.layers, strict=True):
        for name in (name for group in layer.input_groups for name in group):
            linear = module.get_submodule(name)
            if isinstance(linear, nn.Linear):
                found[layer.full(name)] = linear
    return found


def to_device(packed: PackedLinear, device: torch.device | str) -> PackedLinear:
    """Copy the tensors of a packed linear layer to a device."""
    return replace(
        packed,
        integers=packed.integers.to(device),
        scales=packed.scales.to(device),
        zeros=packed.zeros.to(device),
        g_idx=None if packed.g_idx is None else packed.g_idx.to(device),
    )
