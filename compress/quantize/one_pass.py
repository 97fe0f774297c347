"""AWQ, INT8 and SmoothQuant: every decoder layer quantized from one pass of its inputs."""

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
from ..calibration.mixed_precision import bf16_products
from .awq import round_clipped
from .gptq import refine_packed
from .input_statistics import InputStatistics
from .scaling import Scaler
from .session import QuantizeSession

__all__ = ["one_pass_layers"]


def one_pass_layers(
    session: QuantizeSession,
    model: Layered,
    rows: list[Tensor],
    buffer: ActivationBuffer,
    scaler: Scaler,
) -> Generator[dict[str, PackedLinear]]:
    """Yield the packed linear layers of each unfinished decoder layer, by their names in it.

    A layer runs twice: unchanged, to collect the statistics by which it is scaled and rounded; and
    quantized, to compute the inputs of the next layer.

    Args:
        session: options and results.
        model: the model in floating point.
        rows: calibration rows, int64 [2, seq].
        buffer: storage for hidden states.
        scaler: collects the statistics and scales each layer.
    """
    states, calls = first_inputs(model, rows, buffer, session.bf16)
    first = session.resume(states)
    with progress(f"quantizing ({session.options.method})", len(calls)) as bar:
        bar.advance(first)
        for index, call in list(enumerate(calls))[first:]:
            layer = model.architecture.layers[index]
            with model.held(index) as module, torch.no_grad(), ExitStack() as hooks:
                statistics = scaler.collect_and_scale(layer, module, states, call)
                packed = {
                    name: linear
                    for group in layer.input_groups
                    for name in group
                    if (linear := _quantize_linear(session, layer, module, name, statistics[group]))
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


def _quantize_linear(
    session: QuantizeSession,
    layer: Layer,
    module: nn.Module,
    name: str,
    inputs: InputStatistics,
) -> PackedLinear | None:
    """Quantize one linear layer and record its error; None if it stays in floating point."""
    options = session.options
    full = layer.full(name)
    scheme = options.scheme(full)
    if scheme is None:
        return None
    weight = weight_of(module.get_submodule(name))
    if options.rounds_activations:
        static = options.method == "smoothquant"
        packed = pack_int8(weight, float(inputs.peak.max()) if static else None)
        scheme = None
    else:
        with bf16_products(session.bf16):
            clipped = round_clipped(weight, inputs.hessian, scheme)
            packed = refine_packed(clipped, weight, inputs.hessian, options.damp, options.refine)
    hessian = inputs.hessian if inputs.hessian.numel() else torch.diag(inputs.mean**2)
    session.record_error(full, weight, packed.dequantize(), hessian, scheme)
    return packed
