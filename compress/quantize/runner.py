"""The quantize step: a packed copy of a checkpoint, made and written one decoder layer after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...checkpoint import content_hash, read_family, read_provenance, stored_dtype, tensors_of, write_checkpoint
from ...configs import quantization
from ...errors import Refused, UsageError
from ...layouts import LAYOUTS, Layout, Scheme
from ...layouts.gptq import Gptq
from ...layouts.packed import values_together
from ...loading import pick_device
from ...models import Family, require_dense
from ...shards import Pending
from ...steps import StepContext, StepResult
from ...streaming import Streamed
from ..activations import Room
from .layers import Run, quantized_layers
from .options import QuantizeOptions

__all__ = ["quantize"]


def quantize(options: QuantizeOptions, source: Path, out: Path, context: StepContext) -> StepResult:
    """Write a packed copy of `source`, in the GPTQ layout, to `out`.

    Raises:
        Refused: already quantized, a mixture of experts, or a width that `group_size` does not divide.
        UsageError: the input is broken.
    """
    family, config = read_family(source)
    if quantization(config):
        raise Refused(f"{source}: quantized already", "quantize the floating-point checkpoint it was made from")
    require_dense(config, "quantized", str(source))
    schemes = _schemes(family, config, options)
    layout = LAYOUTS["gptq"]
    assert isinstance(layout, Gptq)
    _check_groups(family, config, schemes, options)
    rows = context.calibration.rows(source, context.seed)
    model, run = Streamed(source, pick_device(context.device)), Run(options)
    state = _pending(run, model, rows, Room(context.activation_budget, out.parent), stored_dtype(config), layout, schemes)
    block = layout.config(Scheme(options.bits, options.group_size, options.sym), options.damp, desc_act=options.permuted)
    provenance = {
        "kind": "checkpoint", "step": "quantize", "source": content_hash(source), "options": options.model_dump(),
        "calibration": vars(context.calibration), "fallbacks": run.notes,
    }  # fmt: skip
    files = {"quantize_config.json": block}  # AutoGPTQ looks nowhere else
    write_checkpoint(out, state, {**config, "quantization_config": block}, source, provenance, files=files)
    notes, worst = _told(run, options)
    if read_provenance(source).get("sparsity"):
        notes.append("the source is 2:4 sparse; rounding need not keep that, so that the result counts as dense")
    return StepResult(notes + run.notes, {"modules": worst})


def _told(run: Run, options: QuantizeOptions) -> tuple[list[str], dict[str, dict[str, float]]]:
    """What to say of the errors, and the ten layers with the largest."""
    worst = sorted(run.modules.items(), key=lambda item: -item[1]["error"])[:10]
    mean = sum(m["error"] for m in run.modules.values()) / len(run.modules)
    plain = sum(m["rtn_error"] for m in run.modules.values()) / len(run.modules)
    return [
        f"{len(run.modules)} linear layers to {options.bits} bit, {'symmetric' if options.sym else 'asymmetric'}, "
        f"group {options.group_size}; embedding and head stay as they were",
        f"mean relative output error {mean:.2e} (round-to-nearest {plain:.2e}); worst {worst[0][0]} at {worst[0][1]['error']:.2e}",
    ], dict(worst)


def _schemes(family: Family, config: Mapping[str, Any], options: QuantizeOptions) -> dict[str, Scheme]:
    """What becomes of every linear layer of the decoder, by full name; those that stay are left out."""
    layers, names = family.shape(config).num_hidden_layers, [name for group in family.input_groups for name in group]
    full = [family.key(index, name, "").removesuffix(".") for index in range(layers) for name in names]
    return {name: scheme for name in full if (scheme := options.scheme(name))}


def _check_groups(family: Family, config: dict[str, Any], schemes: Mapping[str, Scheme], options: QuantizeOptions) -> None:
    if options.group_size not in (-1, 32, 64, 128):
        raise UsageError(f"group size {options.group_size}: not supported", "use 32, 64, 128 or -1")
    shapes, together = family.linear_shapes(config), values_together(options.bits)
    bad = [f"{n} ({k} inputs)" for n, (_, k) in shapes.items() if options.group_size != -1 and k % options.group_size]
    if bad:
        raise Refused(
            f"group size {options.group_size} does not divide the width of {', '.join(bad)}",
            "use a smaller --group-size, or prune to a multiple of it",
        )
    bad = [f"{name} ({n} x {k})" for name, (n, k) in shapes.items() if n % together or k % together]
    if bad:
        raise Refused(
            f"{options.bits}-bit integers are stored {together} together, which does not divide {', '.join(bad)}",
            f"prune to multiples of {together}",
        )


def _pending(
    run: Run, model: Streamed, rows: list[Tensor], room: Room, dtype: torch.dtype, layout: Layout, schemes: Mapping[str, Scheme]
) -> Pending:  # fmt: skip
    """The tensors to write, made a layer at a time: packed linears, everything else in `dtype`."""
    family = model.family
    packed = {f"{name}.weight" for name in schemes}
    specs: dict[str, Tensor] = {}
    for key, spec in model.specs.items():
        if key in packed:
            name = key.removesuffix(".weight")
            specs |= {f"{name}.{part}": t for part, t in layout.specs(spec.shape[0], spec.shape[1], schemes[name]).items()}
        else:
            specs[key] = spec.to(dtype)

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for index, layer in enumerate(quantized_layers(run, model, rows, room)):
            start = family.key(index, "", "")[:-1]
            for name, linear in layer.items():
                yield from ((f"{start}{name}.{part}", tensor.cpu()) for part, tensor in layout.write(linear).items())
            rest = tensors_of(model.path, lambda key, start=start: key.startswith(start) and key not in packed)
            yield from ((key, tensor.to(dtype)) for key, tensor in rest)
        rest = tensors_of(model.path, lambda key: not key.startswith(f"{family.layers}."))
        yield from ((key, tensor.to(dtype)) for key, tensor in rest)

    return Pending(specs, tensors())
