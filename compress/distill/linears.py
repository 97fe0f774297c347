"""The linear layers of a student's decoder layers."""

from __future__ import annotations

from typing import Any

from torch import nn

from ...models import Architecture, decoder_layers

__all__ = ["decoder_linears"]


def decoder_linears(student: Any, architecture: Architecture) -> dict[str, nn.Linear]:
    """The linear layers of every decoder layer by their full names; routed experts have none."""
    found: dict[str, nn.Linear] = {}
    modules = decoder_layers(student, architecture)
    for module, layer in zip(modules, architecture.layers, strict=True):
        for name in (name for group in layer.input_groups for name in group):
            linear = module.get_submodule(name)
            if isinstance(linear, nn.Linear):
                found[layer.full(name)] = linear
    return found
