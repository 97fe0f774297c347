"""The quantize step: one decoder layer after the other, each calibrated on what the quantized layers before it put out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from ...checkpoint import content_hash, read_family, read_provenance, stored_dtype, tensors_of, write_checkpoint
from ...console import progress
from ...errors import Refused, UsageError
from ...layouts import PackedLinear, gptq_config, gptq_specs, is_gptq, to_gptq
from ...loading import pick_device
from ...models import Family, require_dense, weight_of
from ...shards import Pending
from ...steps import StepContext, StepResult
from ...streaming import Layered, Streamed
from ..activations import Room
from ..layerwise import first_inputs, input_hessian
from .gptq import Quantized, gptq, output_error, rtn

__all__ = ["QuantizeOptions", "Run", "quantize", "quantized_layers"]


class QuantizeOptions(BaseModel):
    """How weights are rounded and stored."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Literal["gptq", "rtn"] = Field(default="gptq", description="gptq, or rtn: plain rounding, the baseline to beat")
    bits: Literal[4, 8] = Field(default=4, description="bits of a weight")
    group_size: int = Field(default=128, description="input channels that share a scale; -1 for all")
    sym: bool = Field(default=True, description="zero point in the middle; what Jetson kernels need")
    act_order: bool = Field(default=True, description="static act-order: energetic columns first, groups stay contiguous")
    damp: float = Field(default=0.01, gt=0, description="share of the mean Hessian diagonal added to it")


@dataclass
class Run:
    """What is carried from layer to layer."""

    options: QuantizeOptions
    modules: dict[str, dict[str, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def quantize(options: QuantizeOptions, source: Path, out: Path, context: StepContext) -> StepResult:
    """Write a packed copy of `source`, in the GPTQ layout, to `out`.

    Raises:
        Refused: already quantized, a mixture of experts, or a width that `group_size` does not divide.
        UsageError: the input is broken.
    """
    family, config = read_family(source)
    if is_gptq(config):
        raise Refused(f"{source}: quantized already", "quantize the floating-point checkpoint it was made from")
    require_dense(config, "quantized", str(source))
    _check_groups(family, config, options)
    rows = context.calibration.rows(source, context.seed)
    model, run = Streamed(source, pick_device(context.device)), Run(options)
    state = _pending(run, model, rows, Room(context.activation_budget, out.parent), stored_dtype(config))
    settings = {**config, "quantization_config": gptq_config(options.bits, options.group_size, options.sym, options.damp)}
    provenance = {
        "kind": "checkpoint", "step": "quantize", "source": content_hash(source), "options": options.model_dump(),
        "calibration": vars(context.calibration), "fallbacks": run.notes,
    }  # fmt: skip
    write_checkpoint(out, state, settings, source, provenance)
    worst = sorted(run.modules.items(), key=lambda item: -item[1]["error"])[:10]
    mean = sum(m["error"] for m in run.modules.values()) / len(run.modules)
    plain = sum(m["rtn_error"] for m in run.modules.values()) / len(run.modules)
    notes = [
        f"{len(run.modules)} linear layers to {options.bits} bit, {'symmetric' if options.sym else 'asymmetric'}, "
        f"group {options.group_size}; embedding and head stay as they were",
        f"mean relative output error {mean:.2e} (round-to-nearest {plain:.2e}); worst {worst[0][0]} at {worst[0][1]['error']:.2e}",
    ]
    if read_provenance(source).get("sparsity"):
        notes.append("the source is 2:4 sparse; rounding need not keep that, so that the result counts as dense")
    return StepResult(notes + run.notes, {"modules": dict(worst)})


def _check_groups(family: Family, config: dict[str, Any], options: QuantizeOptions) -> None:
    if options.group_size not in (-1, 32, 64, 128):
        raise UsageError(f"group size {options.group_size}: not supported", "use 32, 64, 128 or -1")
    shapes, word = family.linear_shapes(config), 32 // options.bits
    bad = [f"{n} ({k} inputs)" for n, (_, k) in shapes.items() if options.group_size != -1 and k % options.group_size]
    if bad:
        raise Refused(
            f"group size {options.group_size} does not divide the width of {', '.join(bad)}",
            "use a smaller --group-size, or prune to a multiple of it",
        )
    bad = [f"{name} ({n} x {k})" for name, (n, k) in shapes.items() if n % word or k % word]
    if bad:
        raise Refused(f"{word} integers fill a stored word, which does not divide {', '.join(bad)}", f"prune to multiples of {word}")


def _pending(run: Run, model: Streamed, rows: list[Tensor], room: Room, dtype: torch.dtype) -> Pending:
    """The tensors to write, made a layer at a time: packed linears, everything else in `dtype`."""
    family = model.family
    linears = {name for group in family.input_groups for name in group}
    packed = {family.key(i, name): name for i in range(len(model.layers)) for name in linears}
    specs: dict[str, Tensor] = {}
    for key, spec in model.specs.items():
        if key in packed:
            group_size = _group_size(run.options, spec)
            parts = gptq_specs(spec.shape[0], spec.shape[1], run.options.bits, group_size)
            specs |= {f"{key.removesuffix('weight')}{part}": t for part, t in parts.items()}
        else:
            specs[key] = spec.to(dtype)

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for index, layer in enumerate(quantized_layers(run, model, rows, room)):
            start = family.key(index, "", "")[:-1]
            for name, linear in layer.items():
                yield from ((f"{start}{name}.{part}", tensor.cpu()) for part, tensor in to_gptq(linear).items())
            rest = tensors_of(model.path, lambda key, start=start: key.startswith(start) and key not in packed)
            yield from ((key, tensor.to(dtype)) for key, tensor in rest)
        rest = tensors_of(model.path, lambda key: not key.startswith(f"{family.layers}."))
        yield from ((key, tensor.to(dtype)) for key, tensor in rest)

    return Pending(specs, tensors())


def _group_size(options: QuantizeOptions, weight: Tensor) -> int:
    return weight.shape[1] if options.group_size == -1 else options.group_size


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
                        packed[name] = _one_linear(run, family, index, layer, name, hessian)
                    bar.advance(note=f"layer {index + 1}/{len(layers)}")
                for row in range(len(states)):
                    states[row] = call(layer, states[row])
            yield packed


def _one_linear(run: Run, family: Family, index: int, layer: nn.Module, name: str, hessian: Tensor) -> PackedLinear:
    o, full = run.options, family.key(index, name, "").removesuffix(".")
    linear = layer.get_submodule(name)
    weight = weight_of(linear)
    group_size = _group_size(o, weight)
    rounded = rtn(weight, o.bits, group_size, o.sym)
    result = Quantized(rounded, None) if o.method == "rtn" else gptq(weight, hessian, o.bits, group_size, o.sym, o.act_order, o.damp)
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
