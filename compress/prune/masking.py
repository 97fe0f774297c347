"""Makes an uncut model compute what it will compute after the cut, without changing its weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...models import Architecture, Layer, decoder_layers
from .cut import KeptParts
from .experts import mask_router

__all__ = ["masked", "masked_layer"]


@contextmanager
def masked(model: nn.Module, architecture: Architecture, kept: KeptParts) -> Iterator[None]:
    """While this lasts, only the parts that are kept contribute to the model's output.

    Args:
        model: the uncut model.
        architecture: its architecture.
        kept: the heads, neurons, experts and layers that stay.
    """
    modules = decoder_layers(model, architecture)
    with ExitStack() as stack:
        for module, layer in zip(modules, architecture.layers, strict=True):
            stack.enter_context(masked_layer(module, layer, kept))
        yield


@contextmanager
def masked_layer(module: nn.Module, layer: Layer, kept: KeptParts) -> Iterator[None]:
    """`masked`, for one decoder layer."""
    if layer.index not in kept.layers:
        handles = [module.register_forward_hook(_skip)]
    else:
        widths = {linear.name: linear.in_features for linear in layer.linear_counts()}
        handles = [
            module.get_submodule(name).register_forward_pre_hook(
                _multiplier(torch.zeros(widths[name]).index_fill(0, channels, 1))
            )
            for name, channels in kept.inputs(layer).items()
        ]
        routed = kept.routed(layer.index)
        if routed and layer.experts:
            handles.append(mask_router(module, layer.experts, routed))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _multiplier(mask: Tensor) -> Any:
    """A hook that multiplies the input of a projection by a mask [in]."""

    def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (args[0] * mask.to(args[0]), *args[1:])

    return hook


def _skip(_module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    """A hook that makes a layer return its input."""
    return (args[0], *output[1:]) if isinstance(output, tuple) else args[0]
