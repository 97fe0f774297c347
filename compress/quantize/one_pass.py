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
from ..calibration.activation_buffer import Room
from ..calibration.layer_inputs import advance, first_inputs
from .awq import clipped
from .gptq import improved
from .input_statistics import Inputs
from .scaling import Scaler
from .sequential import Run

__all__ = ["observed_layers"]


def observed_layers(
    run: Run, model: Layered, rows: list[Tensor], room: Room, scaler: Scaler
) -> Generator[dict[str, PackedLinear]]:
    """The packed linear layers of each decoder layer, by their names in it.

    A layer runs twice: as it came, to be scaled and rounded by what it was given, and then as it was made, for the next.
    """
    states, calls = first_inputs(model, rows, room, run.bf16)
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
    run: Run, layer: Layer, module: nn.Module, name: str, inputs: Inputs
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
        packed = improved(
            clipped(weight, inputs.gram, scheme),
            weight,
            inputs.gram,
            run.options.damp,
            run.options.refine,
        )
    run.judge(
        full,
        weight,
        packed.dequantize(),
        inputs.gram if inputs.gram.numel() else torch.diag(inputs.mean**2),
        scheme,
    )
    return packed
