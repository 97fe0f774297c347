"""Decoder layers one at a time: what enters the first, and how the model would call each of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["LayerCall", "first_inputs"]

LayerCall = Callable[[nn.Module, Tensor], Tensor]
"""Runs a decoder layer on hidden states [batch, seq, width], with the masks and rotary tables the model gives it."""


class _Captured(Exception):
    """Raised by the hook on the first layer once its inputs are known."""


def first_inputs(model: Any, layers: list[nn.Module], rows: list[Tensor]) -> tuple[list[Tensor], list[LayerCall]]:
    """The hidden states that enter the first layer, and for every layer how the model would call it on such states.

    Rows (int64 [2, seq]: ids and labels) have one length, so the masks and rotary tables of one row serve them all.
    """
    states: list[Tensor] = []

    def catch(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        states.append(args[0] if args else kwargs["hidden_states"])
        raise _Captured

    handle = layers[0].register_forward_pre_hook(catch, with_kwargs=True)
    device = next(model.parameters()).device
    try:
        for row in rows:
            try:
                with torch.no_grad():
                    model(input_ids=row[:1].to(device), use_cache=False)
            except _Captured:
                continue
    finally:
        handle.remove()
    return states, _layer_calls(model, layers, rows[0][:1].to(device))


def _layer_calls(model: Any, layers: list[nn.Module], ids: Tensor) -> list[LayerCall]:
    recorded: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def record(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        recorded.append((args[1:], kwargs))

    handles = [layer.register_forward_pre_hook(record, with_kwargs=True) for layer in layers]
    try:
        with torch.no_grad():
            model(input_ids=ids, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()

    def caller(args: tuple[Any, ...], kwargs: dict[str, Any]) -> LayerCall:
        def call(layer: nn.Module, hidden: Tensor) -> Tensor:
            output = layer(hidden, *args, **{k: v for k, v in kwargs.items() if k != "hidden_states"})
            return output[0] if isinstance(output, tuple) else output

        return call

    return [caller(args, kwargs) for args, kwargs in recorded]
