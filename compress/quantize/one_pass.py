"""Quantized decoder layers from one look at what each is given: AWQ, and 8-bit weights with 8-bit activations."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from ...checkpoints.layouts import PackedLinear, pack_int8, rounds_inputs
from ...checkpoints.streaming import Layered
from ...console import progress
from ...models import Layer, weight_of
from ..calibration.activation_buffer import ActivationBuffer
from ..calibration.layer_inputs import advance, first_inputs
from .awq import round_clipped
from .gptq import refine_packed
from .input_statistics import InputStatistics
from .scaling import Scaler
from .session import QuantizeSession

__all__ = ["one_pass_layers"]


def one_pass_layers(
    run: QuantizeSession,
    model: Layered,
    rows: list[Tensor],
    buffer: ActivationBuffer,
    scaler: Scaler,
) -> Generator[dict[str, PackedLinear]]:
    """The packed linear layers of each decoder layer, by their names in it.

    A layer runs twice: as it came, to be scaled and rounded by what it was given, and then as it was made, for the next.
    """
    states, calls = first_inputs(model, rows, buffer, run.bf16)
    first = run.entering(states)
    with progress(f"quantizing ({run.options.method})", len(calls)) as bar:
        bar.advance(first)
        for index, call in list(enumerate(calls))[first:]:
            layer = model.architecture.layers[index]
            with model.held(index) as module, torch.no_grad(), ExitStack() as hooks:
                seen = scaler.look(layer, module, states, call)
                packed = {
                    name: linear
                    for group in layer.input_groups
                    for name in group
                    if (linear := _one_linear(run, layer, module, name, seen[group]))
                }
                for name, linear in packed.items():
                    weight_of(module.get_submodule(name)).copy_(linear.dequantize())
                    if linear.inputs:
                        hooks.callback(
                            rounds_inputs(module.get_submodule(name), linear.inputs).remove
                        )
                if index + 1 < len(calls):
                    advance(module, states, call)
            bar.advance(note=f"layer {index + 1}/{len(calls)}")
            yield packed


def _one_linear(
    run: QuantizeSession, layer: Layer, module: nn.Module, name: str, inputs: InputStatistics
) -> PackedLinear | None:
    full = layer.full(name)
    scheme = run.options.scheme(full)
    if scheme is None:
        return None
    weight = weight_of(module.get_submodule(name))
    if run.options.rounds_activations:
        static = run.options.method == "smoothquant"
        packed, scheme = pack_int8(weight, float(inputs.peak.max()) if static else None), None
    else:
        packed = refine_packed(
            round_clipped(weight, inputs.hessian, scheme),
            weight,
            inputs.hessian,
            run.options.damp,
            run.options.refine,
        )
    run.record_error(
        full,
        weight,
        packed.dequantize(),
        inputs.hessian if inputs.hessian.numel() else torch.diag(inputs.mean**2),
        scheme,
    )
    return packed
