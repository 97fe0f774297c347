"""Quantized decoder layers, one after the other, each calibrated on what the quantized layers before it put out."""

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
from .gptq import GptqResult, gptq, rtn
from .options import QuantizeOptions
from .permuted_groups import permuted_gptq
from .scaling import Scaler
from .session import QuantizeSession

__all__ = ["sequential_layers"]


MIN_TOKENS_PER_CHANNEL = 0.25
"""Tokens an input channel that an expert must have been given to be solved by its Hessian. On held-out tokens of the tiny reasoner's FFN
(4 bits), the error of GPTQ over that of rounding is 0.72 .. 0.98 with a sixteenth, 0.61 .. 1.02 with an eighth, 0.53 .. 0.86 with a quarter
and 0.29 .. 0.40 with as many tokens as channels."""
BUFFER_SETS = 3
"""Of activations that are kept: the stream, and what enters o_proj and down_proj."""


def sequential_layers(
    run: QuantizeSession,
    model: Layered,
    rows: list[Tensor],
    buffer: ActivationBuffer,
    scaler: Scaler,
) -> Generator[dict[str, PackedLinear]]:
    """The packed linear layers of each decoder layer, by their names in it."""
    layers = model.architecture.layers
    states, calls = first_inputs(model, rows, buffer.part(BUFFER_SETS), run.bf16)
    walk = LayerWalk(buffer.part(BUFFER_SETS), run.bf16, run.options.hessian_tokens)
    first = run.entering(states)
    with progress(f"quantizing ({run.options.method})", len(layers)) as bar:
        bar.advance(first)
        for index, call in list(enumerate(calls))[first:]:
            layer = layers[index]
            with model.held(index) as module, torch.no_grad():
                if run.options.scaling != "none":
                    scaler.look(layer, module, states, call)
                groups = walk.visit(module, layer, call, states)
                report = partial(bar.advance, 0)
                packed = _one_layer(run, layer, module, groups, walk.tokens, report)
            bar.advance(note=f"layer {index + 1}/{len(layers)}")
            yield packed


def _one_layer(
    run: QuantizeSession,
    layer: Layer,
    module: nn.Module,
    groups: Iterable[tuple[tuple[str, ...], Tensor]],
    tokens: Mapping[str, int],
    report: Callable[[str], None],
) -> dict[str, PackedLinear]:
    """The packed linear layers of one decoder layer.

    A function of its own, so that the memory of the last Hessian is freed.
    """
    packed: dict[str, PackedLinear] = {}
    for group, hessian in groups:
        report(f"layer {layer.index + 1}: {group[0]}")
        if schemes := {
            name: scheme for name in group if (scheme := run.options.scheme(layer.full(name)))
        }:
            packed |= _one_group(run, layer, module, schemes, hessian, tokens.get(group[0]))
    return packed


def _one_group(
    run: QuantizeSession,
    layer: Layer,
    module: nn.Module,
    schemes: Mapping[str, Scheme],
    hessian: Tensor,
    tokens: int | None,
) -> dict[str, PackedLinear]:
    """The packed linear layers of a group, which read the same inputs.

    Those of one scheme are solved together, because the rows of a weight are independent. Those of a
    routed expert that got too few `tokens` are rounded to nearest; without any token there is no
    error to report.
    """
    packed: dict[str, PackedLinear] = {}
    too_few = (
        tokens
        if tokens is not None
        and tokens < MIN_TOKENS_PER_CHANNEL * len(hessian)
        and run.options.method != "rtn"
        else None
    )
    for scheme in dict.fromkeys(schemes.values()):
        names = [name for name in schemes if schemes[name] == scheme]
        weights = [weight_in(module, layer, name) for name in names]
        full = [layer.full(name) for name in names]
        together = torch.cat(weights) if len(weights) > 1 else weights[0]
        if too_few is None:
            result = _rounded(run, ", ".join(full), together, scheme, hessian)
        else:
            result = rtn(together, scheme)
            run.starved |= dict.fromkeys(full, too_few)
        first = 0
        for name, key, weight in zip(names, full, weights, strict=True):
            packed[name] = result.rows(first, first + len(weight))
            first += len(weight)
            rounded = packed[name].dequantize()
            if tokens != 0:
                run.record_error(
                    key, weight, rounded, hessian, None if run.options.method == "rtn" else scheme
                )
            weight.copy_(rounded)
    return packed


def _rounded(
    run: QuantizeSession, name: str, weight: Tensor, scheme: Scheme, hessian: Tensor
) -> PackedLinear:
    """A weight by the method that was asked for, and a note where that was hard."""
    o = run.options
    if o.method == "rtn":
        return rtn(weight, scheme)
    result = _solved(weight, hessian, scheme, o)
    if result.damp is None:
        run.notes.append(f"{name}: the Hessian could not be factorised; rounded to nearest")
    elif result.damp > o.damp:
        run.notes.append(f"{name}: needed damping {result.damp:g}")
    return result.packed


def _solved(
    weight: Tensor, hessian: Tensor, scheme: Scheme, options: QuantizeOptions
) -> GptqResult:
    if options.act_order == "permuted":
        return permuted_gptq(weight, hessian, scheme, options.damp, options.refine)
    return gptq(
        weight, hessian, scheme, options.act_order == "static", options.damp, options.refine
    )
