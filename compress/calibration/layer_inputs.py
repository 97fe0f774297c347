"""Decoder layers one at a time: what enters the first, and how the model would call each of them."""

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
"""Runs a decoder layer on hidden states [batch, seq, width], with the masks and rotary tables the model gives it."""

TOKENS_AT_ONCE = 4096
"""Tokens that go through a layer together; at least one row."""


class StopForward(Exception):
    """Raised by a hook once what it was there for is known."""


def first_inputs(
    model: Layered, rows: list[Tensor], buffer: ActivationBuffer | None = None, bf16: bool = False
) -> tuple[Activations, list[LayerCall]]:
    """The hidden states that enter the first layer, and for every layer how the model would call it on such states.

    Rows (int64 [2, seq]: ids and labels) have one length, so the masks and rotary tables of one row serve them all.

    Args:
        model: whose layers; none of them is run.
        rows: what goes in.
        buffer: where the states [rows, seq, width] are kept; in memory, if nothing is said.
        bf16: whether the calls compute their products in bfloat16.
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
    recorded: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def record(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        recorded.append((args[1:], kwargs))
        if len(recorded) == len(model.layers):
            raise StopForward  # what comes after the layers may have no weights

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
    """Whether an attention mask hides the future and nothing else, as a window does that is no shorter than the rows.

    Scaled dot-product attention, the kind that masks by truth values, hides the future by itself, and then never computes it.
    """
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape[-1] != mask.shape[-2]:
        return False
    return torch.equal(mask, torch.ones_like(mask).tril())


def batches(states: Activations) -> Iterator[slice]:
    """Rows that go through a layer together."""
    rows = max(1, TOKENS_AT_ONCE // states.shape[1])
    return (slice(first, min(first + rows, len(states))) for first in range(0, len(states), rows))


def advance(layer: nn.Module, states: Activations, call: LayerCall) -> None:
    """Replace states by what the layer makes of them."""
    for batch in batches(states):
        states[batch] = call(layer, states[batch])


def input_hessian(
    layer: nn.Module, reader: nn.Module, states: Activations, call: LayerCall
) -> Tensor:
    """The sum of outer products [in, in] of what `reader`, a linear in `layer`, is given when the layer runs on `states`."""
    hessian = Hessian(weight_of(reader).shape[1], states.device)

    def seen(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
        hessian.add(args[0])
        raise StopForward  # what the layer does after it does not matter

    handle = reader.register_forward_pre_hook(seen)
    try:
        for batch in batches(states):
            with suppress(StopForward):
                call(layer, states[batch])
    finally:
        handle.remove()
    return hessian.matrix()
