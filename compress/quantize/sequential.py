"""GPTQ and plain rounding: layer by layer, each calibrated on the outputs of the quantized ones."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from ...checkpoints.layouts import PackedLinear, Scheme
from ...checkpoints.streaming import Layered
from ...console import progress
from ...models import Layer, weight_in
from ..calibration.activation_buffer import ActivationBuffer
from ..calibration.layer_inputs import first_inputs
from ..calibration.layer_walk import LayerWalk
from ..calibration.mixed_precision import bf16_products
from .gptq import GptqResult, gptq, rtn
from .options import QuantizeOptions
from .permuted_groups import permuted_gptq
from .scaling import Scaler
from .session import QuantizeSession

__all__ = ["MIN_TOKENS_PER_CHANNEL", "sequential_layers"]


MIN_TOKENS_PER_CHANNEL = 0.25
"""Calibration tokens per input channel that an expert needs for GPTQ; with fewer, it is rounded.

Measured on held-out tokens of the tiny reasoner's FFN at 4 bits, as the error of GPTQ over that of
plain rounding: 0.72 .. 0.98 with a sixteenth of a token per channel, 0.61 .. 1.02 with an eighth,
0.53 .. 0.86 with a quarter, 0.29 .. 0.40 with one token per channel."""
BUFFER_SETS = 3
"""Sets of activations in storage: the residual stream, and the inputs of o_proj and down_proj."""


def sequential_layers(
    session: QuantizeSession,
    model: Layered,
    rows: list[Tensor],
    buffer: ActivationBuffer,
    scaler: Scaler,
) -> Generator[dict[str, PackedLinear]]:
    """Yield the packed linear layers of each unfinished decoder layer, by their names in it.

    Args:
        session: options and results.
        model: the model in floating point.
        rows: calibration rows, int64 [2, seq].
        buffer: storage for hidden states.
        scaler: scales each layer first, if the options ask for it.
    """
    layers = model.architecture.layers
    states, calls = first_inputs(model, rows, buffer.part(BUFFER_SETS), session.bf16)
    walk = LayerWalk(buffer.part(BUFFER_SETS), session.bf16, session.options.hessian_tokens)
    first = session.resume(states)
    with progress(f"quantizing ({session.options.method})", len(layers)) as bar:
        bar.advance(first)
        for index, call in list(enumerate(calls))[first:]:
            layer = layers[index]
            with model.held(index) as module, torch.no_grad():
                if session.options.scaling != "none":
                    scaler.collect_and_scale(layer, module, states, call)
                groups = walk.visit(module, layer, call, states)
                report = partial(bar.advance, 0)
                packed = _quantize_layer(session, layer, module, groups, walk.tokens, report)
            bar.advance(note=f"layer {index + 1}/{len(layers)}")
            yield packed


def _quantize_layer(
    session: QuantizeSession,
    layer: Layer,
    module: nn.Module,
    groups: Iterable[tuple[tuple[str, ...], Tensor]],
    tokens: Mapping[str, int],
    report: Callable[[str], None],
) -> dict[str, PackedLinear]:
    """The packed linear layers of one decoder layer.

    This is a function of its own so that the memory of the last Hessian is freed at its end.
    """
    packed: dict[str, PackedLinear] = {}
    for group, hessian in groups:
        report(f"layer {layer.index + 1}: {group[0]}")
        if schemes := {
            name: scheme for name in group if (scheme := session.options.scheme(layer.full(name)))
        }:
            packed |= _quantize_group(
                session, layer, module, schemes, hessian, tokens.get(group[0])
            )
    return packed


def _quantize_group(
    session: QuantizeSession,
    layer: Layer,
    module: nn.Module,
    schemes: Mapping[str, Scheme],
    hessian: Tensor,
    tokens: int | None,
) -> dict[str, PackedLinear]:
    """The packed linear layers of a group, that is, of layers that read the same input.

    The rows of a weight are independent, so weights of the same scheme are quantized as one matrix.
    A routed expert that got too few `tokens` is rounded to nearest. Without any token, there is no
    error to record.
    """
    packed: dict[str, PackedLinear] = {}
    plain = session.options.method == "rtn"
    limit = MIN_TOKENS_PER_CHANNEL * len(hessian)
    too_few = tokens if tokens is not None and tokens < limit and not plain else None
    for scheme in dict.fromkeys(schemes.values()):
        names = [name for name in schemes if schemes[name] == scheme]
        weights = [weight_in(module, layer, name) for name in names]
        full = [layer.full(name) for name in names]
        together = torch.cat(weights) if len(weights) > 1 else weights[0]
        if too_few is None:
            result = _quantize_weight(session, ", ".join(full), together, scheme, hessian)
        else:
            result = rtn(together, scheme)
            session.starved |= dict.fromkeys(full, too_few)
        first = 0
        for name, key, weight in zip(names, full, weights, strict=True):
            packed[name] = result.rows(first, first + len(weight))
            first += len(weight)
            rounded = packed[name].dequantize()
            if tokens != 0:
                session.record_error(key, weight, rounded, hessian, None if plain else scheme)
            weight.copy_(rounded)
    return packed


def _quantize_weight(
    session: QuantizeSession, name: str, weight: Tensor, scheme: Scheme, hessian: Tensor
) -> PackedLinear:
    """Quantize a weight by the method of the options; note it where more damping was needed."""
    options = session.options
    if options.method == "rtn":
        return rtn(weight, scheme)
    with bf16_products(session.bf16):
        result = _gptq(weight, hessian, scheme, options)
    if result.damp is None:
        session.notes.append(f"{name}: the Hessian could not be factorised; rounded to nearest")
    elif result.damp > options.damp:
        session.notes.append(f"{name}: needed damping {result.damp:g}")
    return result.packed


def _gptq(weight: Tensor, hessian: Tensor, scheme: Scheme, options: QuantizeOptions) -> GptqResult:
    """GPTQ with the order of columns that the options ask for."""
    if options.act_order == "permuted":
        return permuted_gptq(weight, hessian, scheme, options.damp, options.refine)
    return gptq(
        weight, hessian, scheme, options.act_order == "static", options.damp, options.refine
    )
