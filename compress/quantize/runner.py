"""The quantize step: one decoder layer after the other, each calibrated on what the quantized layers before it put out."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from ...checkpoint import content_hash, read_family, read_provenance, stored_dtype, write_checkpoint
from ...console import progress
from ...errors import Refused, UsageError
from ...layouts import PackedLinear, gptq_config, is_gptq, to_gptq
from ...loading import load_model, pick_device
from ...models import Family, weight_of
from ...steps import StepContext, StepResult
from ...streaming import InMemory
from ..layerwise import first_inputs, input_hessian
from .gptq import Quantized, gptq, output_error, rtn

__all__ = ["QuantizeOptions", "quantize"]


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
class _Run:
    """What is carried from layer to layer."""

    options: QuantizeOptions
    packed: dict[str, PackedLinear] = field(default_factory=dict)
    modules: dict[str, dict[str, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def quantize(options: QuantizeOptions, source: Path, out: Path, context: StepContext) -> StepResult:
    """Write a packed copy of `source`, in the GPTQ layout, to `out`.

    Raises:
        Refused: already quantized, or a width that `group_size` does not divide.
        UsageError: the input is broken.
    """
    family, config = read_family(source)
    if is_gptq(config):
        raise Refused(f"{source}: quantized already", "quantize the floating-point checkpoint it was made from")
    _check_groups(family, config, options)
    device = pick_device(context.device)
    rows = context.calibration.rows(source, context.seed)
    model = load_model(source, device)
    run = _Run(options)
    _all_layers(run, model, family, rows)
    state = _packed_state(model, run, stored_dtype(config))
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
        f"{len(run.packed)} linear layers to {options.bits} bit, {'symmetric' if options.sym else 'asymmetric'}, "
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


def _all_layers(run: _Run, model: Any, family: Family, rows: list[Tensor]) -> None:
    layers = family.layer_list(model)
    states, calls = first_inputs(InMemory(model, family), rows)
    with torch.no_grad(), progress(f"quantizing ({run.options.method})", len(layers) * len(family.input_groups)) as bar:
        for index, layer in enumerate(layers):
            call = calls[index]
            for group in family.input_groups:
                hessian = input_hessian(layer, layer.get_submodule(group[0]), states, call)
                for name in group:
                    _one_linear(run, family, index, layer, name, hessian)
                bar.advance(note=f"layer {index + 1}/{len(layers)}")
            for row in range(len(states)):
                states[row] = call(layer, states[row])


def _one_linear(run: _Run, family: Family, index: int, layer: nn.Module, name: str, hessian: Tensor) -> None:
    o, full = run.options, family.key(index, name, "").removesuffix(".")
    linear = layer.get_submodule(name)
    weight = weight_of(linear)
    group_size = weight.shape[1] if o.group_size == -1 else o.group_size
    rounded = rtn(weight, o.bits, group_size, o.sym)
    result = Quantized(rounded, None) if o.method == "rtn" else gptq(weight, hessian, o.bits, group_size, o.sym, o.act_order, o.damp)
    if o.method == "gptq" and result.damp is None:
        run.notes.append(f"{full}: the Hessian could not be factorised; rounded to nearest")
    elif result.damp is not None and result.damp > o.damp:
        run.notes.append(f"{full}: needed damping {result.damp:g}")
    run.packed[full] = result.packed
    run.modules[full] = {
        "error": output_error(weight, result.packed.dequantize(), hessian),
        "rtn_error": output_error(weight, rounded.dequantize(), hessian),
    }
    weight.copy_(result.packed.dequantize())


def _packed_state(model: Any, run: _Run, dtype: torch.dtype) -> dict[str, Tensor]:
    """The state dict to write: packed linears, everything else in the dtype it came in."""
    tied = set(model._tied_weights_keys or ()) if model.config.tie_word_embeddings else set()
    state: dict[str, Tensor] = {}
    for key, tensor in model.state_dict().items():
        name, _, part = key.rpartition(".")
        if key in tied:
            continue
        if name in run.packed and part == "weight":
            state |= {f"{name}.{k}": v.cpu() for k, v in to_gptq(run.packed[name]).items()}
        else:
            state[key] = tensor.cpu().to(dtype)
    return state
