"""Run decoder layers one at a time: the inputs of the first, and how the model calls each one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from ...checkpoints.streaming import Layered, passed_through
from ...models import weight_of
from .activation_buffer import ActivationBuffer, Activations
from .hessian import Hessian
from .mixed_precision import mixed_precision

__all__ = ["LayerCall", "StopForward", "advance", "batches", "first_inputs", "input_hessian"]

LayerCall = Callable[[nn.Module, Tensor], Tensor]
"""Runs a decoder layer on hidden states [batch, seq, width].

It passes the attention mask and the rotary embeddings that the model would pass."""

TOKENS_AT_ONCE = 4096
"""Tokens that go through a layer at a time; at least one row."""


class StopForward(Exception):
    """Raised by a hook to end a forward pass when the hook has what it needs."""


def first_inputs(
    model: Layered, rows: list[Tensor], buffer: ActivationBuffer | None = None, bf16: bool = False
) -> tuple[Activations, list[LayerCall]]:
    """Compute the hidden states that enter the first layer, and how the model calls every layer.

    All rows (int64 [2, seq]: token ids and labels) have the same length, so the mask and rotary
    embeddings of one row are right for all rows.

    Args:
        model: the model. None of its layers is run.
        rows: calibration rows.
        buffer: storage for the states [rows, seq, width]; default: in memory.
        bf16: whether the calls compute matrix products in bfloat16.

    Returns:
        The states, and one call per layer.
    """
    states: list[Tensor] = []

    def catch(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        states.append(args[0] if args else kwargs["hidden_states"])
        raise StopForward

    stored: Activations | None = None
    with torch.no_grad(), model.started(torch.stack([row[0] for row in rows])) as start:
        calls = _layer_calls(model, start, rows[0][:1], bf16)
        handle = model.layers[0].register_forward_pre_hook(catch, with_kwargs=True)
        try:
            for number, row in enumerate(rows):
                try:
                    start(row[:1])
                except StopForward:
                    hidden = states.pop()
                    stored = stored or (buffer or ActivationBuffer()).allocate(
                        len(rows), hidden.shape[1], hidden.shape[2], hidden.device
                    )
                    stored[number] = hidden
        finally:
            handle.remove()
    assert stored is not None
    return stored, calls


def _layer_calls(
    model: Layered, start: Callable[[Tensor], Any], ids: Tensor, bf16: bool
) -> list[LayerCall]:
    """Record the arguments that the model passes to each layer. The layers do not run."""
    recorded: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def record(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        recorded.append((args[1:], kwargs))
        if len(recorded) == len(model.layers):
            raise StopForward  # the modules after the layers may have no weights in memory

    handles = [layer.register_forward_pre_hook(record, with_kwargs=True) for layer in model.layers]
    try:
        with suppress(StopForward), passed_through(model.layers):
            start(ids)
    finally:
        for handle in handles:
            handle.remove()

    def caller(args: tuple[Any, ...], kwargs: dict[str, Any]) -> LayerCall:
        given = {k: v for k, v in kwargs.items() if k != "hidden_states"}
        if _only_causal(given.get("attention_mask")):
            given["attention_mask"] = None

        def call(layer: nn.Module, hidden: Tensor) -> Tensor:
            with mixed_precision(hidden.device, bf16):
                output = layer(hidden, *args, **given)
            return output[0] if isinstance(output, tuple) else output

        return call

    return [caller(args, kwargs) for args, kwargs in recorded]


def _only_causal(mask: Any) -> bool:
    """Whether an attention mask hides later positions and nothing else.

    This is also the case for a sliding window that is no shorter than the rows. Without a mask,
    scaled dot-product attention hides later positions by itself, and skips their computation. It
    is the kind of attention that takes boolean masks.
    """
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape[-1] != mask.shape[-2]:
        return False
    return torch.equal(mask, torch.ones_like(mask).tril())


def batches(states: Activations) -> Iterator[slice]:
    """Slices of rows that go through a layer at a time."""
    rows = max(1, TOKENS_AT_ONCE // states.shape[1])
    return (slice(first, min(first + rows, len(states))) for first in range(0, len(states), rows))


def advance(layer: nn.Module, states: Activations, call: LayerCall) -> None:
    """Replace the states by the outputs of the layer."""
    for batch in batches(states):
        states[batch] = call(layer, states[batch])


def input_hessian(
    layer: nn.Module, reader: nn.Module, states: Activations, call: LayerCall
) -> Tensor:
    """Compute the Hessian of one linear layer when its decoder layer runs on `states`.

    Args:
        layer: the decoder layer.
        reader: the linear layer in it.
        states: inputs of the decoder layer; not changed.
        call: how the model calls the decoder layer.

    Returns:
        Float32 [in, in].
    """
    hessian = Hessian(weight_of(reader).shape[1], states.device)

    def seen(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
        hessian.add(args[0])
        raise StopForward  # the rest of the layer is not needed

    handle = reader.register_forward_pre_hook(seen)
    try:
        for batch in batches(states):
            with suppress(StopForward):
                call(layer, states[batch])
    finally:
        handle.remove()
    return hessian.matrix()
