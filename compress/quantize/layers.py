"""Quantized decoder layers, one after the other, each calibrated on what the quantized layers before it put out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ...console import progress
from ...layouts import PackedLinear, Scheme
from ...models import Family, weight_of
from ...streaming import Layered
from ..activations import Room
from ..layerwise import first_inputs, input_hessian
from .gptq import Quantized, gptq, output_error, rtn
from .options import QuantizeOptions
from .permuted import permuted_gptq

__all__ = ["Run", "quantized_layers"]


@dataclass
class Run:
    """What is carried from layer to layer."""

    options: QuantizeOptions
    modules: dict[str, dict[str, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    tables: dict[str, float] = field(default_factory=dict)
    """Relative weight error of the embedding or head, where it is quantized."""


def quantized_layers(run: Run, model: Layered, rows: list[Tensor], room: Room) -> Iterator[dict[str, PackedLinear]]:
    """The packed linear layers of each decoder layer, by their names in it."""
    family, layers = model.family, model.layers
    states, calls = first_inputs(model, rows, room)
    with progress(f"quantizing ({run.options.method})", len(layers) * len(family.input_groups)) as bar:
        for index, call in enumerate(calls):
            packed: dict[str, PackedLinear] = {}
            with model.held(index) as layer, torch.no_grad():
                for group in family.input_groups:
                    hessian = input_hessian(layer, layer.get_submodule(group[0]), states, call)
                    for name in group:
                        if linear := _one_linear(run, family, index, layer, name, hessian):
                            packed[name] = linear
                    bar.advance(note=f"layer {index + 1}/{len(layers)}")
                for row in range(len(states)):
                    states[row] = call(layer, states[row])
            yield packed


def _one_linear(run: Run, family: Family, index: int, layer: nn.Module, name: str, hessian: Tensor) -> PackedLinear | None:
    full = family.key(index, name, "").removesuffix(".")
    scheme = run.options.scheme(full)
    if scheme is None:
        return None
    weight, o = weight_of(layer.get_submodule(name)), run.options
    rounded = rtn(weight, scheme)
    result = Quantized(rounded, None) if o.method == "rtn" else _solved(weight, hessian, scheme, o)
    if o.method == "gptq" and result.damp is None:
        run.notes.append(f"{full}: the Hessian could not be factorised; rounded to nearest")
    elif result.damp is not None and result.damp > o.damp:
        run.notes.append(f"{full}: needed damping {result.damp:g}")
    run.modules[full] = {
        "error": output_error(weight, result.packed.dequantize(), hessian),
        "rtn_error": output_error(weight, rounded.dequantize(), hessian),
    }
    weight.copy_(result.packed.dequantize())
    return result.packed


def _solved(weight: Tensor, hessian: Tensor, scheme: Scheme, options: QuantizeOptions) -> Quantized:
    if options.act_order == "permuted":
        return permuted_gptq(weight, hessian, scheme, options.damp)
    return gptq(weight, hessian, scheme, options.act_order == "static", options.damp)
