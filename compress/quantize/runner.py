"""The quantize step: a packed copy of a checkpoint, made and written one decoder layer after the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...checkpoint import content_hash, read_family, read_provenance, stored_dtype, tensors_of, write_checkpoint
from ...configs import quantization
from ...errors import Refused
from ...layouts import LAYOUTS, Layout, PackedLinear, Scheme
from ...layouts.gptq import Gptq
from ...loading import pick_device
from ...models import require_dense
from ...shards import Pending
from ...steps import StepContext, StepResult
from ...streaming import Streamed
from ..activations import Room
from .choice import Choice, choose
from .layers import Run, quantized_layers
from .observed import observed_layers
from .options import QuantizeOptions
from .scaling import Scaler
from .sensitivity import measured, table, worth_keeping
from .table import packed_table

__all__ = ["quantize"]


def quantize(options: QuantizeOptions, source: Path, out: Path, context: StepContext) -> StepResult:
    """Write a packed copy of `source`, in the layout that `options.format` names, to `out`.

    Raises:
        Refused: already quantized, a mixture of experts, or a width that its group size does not divide.
        UsageError: the input is broken, or a rule matches nothing.
    """
    family, config = read_family(source)
    if quantization(config):
        raise Refused(f"{source}: quantized already", "quantize the floating-point checkpoint it was made from")
    require_dense(config, "quantized", str(source))
    choice = choose(family, config, options)
    rows, layout = context.calibration.rows(source, context.seed), LAYOUTS[options.format]
    model, room = Streamed(source, pick_device(context.device)), Room(context.activation_budget, out.parent)
    settled, told = _settled(options, choice, model, rows, room)
    choice, run = choose(family, config, settled), Run(settled)
    scaler = Scaler(run, family, config, stored_dtype(config))
    make = quantized_layers if options.method in ("gptq", "rtn") else observed_layers
    state = _pending(run, model, make(run, model, rows, room, scaler), stored_dtype(config), layout, choice)
    block = _block(layout, settled, choice)
    provenance = {
        "kind": "checkpoint", "step": "quantize", "source": content_hash(source), "options": options.model_dump(),
        "calibration": vars(context.calibration), "fallbacks": run.notes,
    }  # fmt: skip
    write_checkpoint(out, state, {**config, "quantization_config": block}, source, provenance, files=layout.files(block))
    notes, worst = _told(run, options, choice)
    if read_provenance(source).get("sparsity"):
        notes.append("the source is 2:4 sparse; rounding need not keep that, so that the result counts as dense")
    return StepResult(notes + run.notes + told.notes, {"modules": worst, **told.details})


def _block(layout: Layout, options: QuantizeOptions, choice: Choice) -> dict[str, Any]:
    """What config.json tells readers."""
    scheme, kept = Scheme(options.bits, options.group_size, options.sym), choice.kept
    if not isinstance(layout, Gptq):
        return layout.config(scheme, options.damp, kept)
    return layout.config(
        scheme, options.damp, kept, desc_act=options.permuted, dynamic=choice.dynamic(options), lm_head=choice.head in choice.tables
    )


def _settled(
    options: QuantizeOptions, choice: Choice, model: Streamed, rows: list[Tensor], room: Room
) -> tuple[QuantizeOptions, StepResult]:  # fmt: skip
    """The options with a rule for every matrix that is worth more bits, and what the measurement told."""
    if options.sensitivity is None:
        return options, StepResult()
    bits, budget = options.sensitivity.keep_bits, options.sensitivity.bytes_of(choice.quantized_bytes)
    schemes = {**choice.layers, **choice.tables}
    found = measured(model, rows, room, schemes, bits)
    kept = worth_keeping(found, budget)
    spent = sum(found[name].extra_bytes for name in kept)
    note = f"sensitivity: {len(kept)} of {len(found)} matrices kept at {bits} bit for {spent:,} bytes more, of {budget:,} allowed"
    return options.keeping({name: schemes[name] for name in kept}), StepResult([note], {"sensitivity": table(found, kept)})


def _told(run: Run, options: QuantizeOptions, choice: Choice) -> tuple[list[str], dict[str, dict[str, float]]]:
    """What to say of the errors, and those of every layer, the largest first."""
    worst = sorted(run.modules.items(), key=lambda item: -item[1]["error"])
    counts = Counter(scheme.bits for scheme in choice.layers.values())
    bits = ", ".join(f"{count} linear layers to {bits} bit" for bits, count in sorted(counts.items()))
    stay = len(choice.shapes.keys() - choice.layers.keys() - choice.tables.keys())
    notes = [f"{bits or 'no linear layer quantized'}, {'symmetric' if options.sym else 'asymmetric'}, group {options.group_size}"]
    if stay:
        notes[0] += f"; {stay} matrices stay as they were"
    notes += [f"{name} to {choice.tables[name].bits} bit, relative weight error {error:.2e}" for name, error in run.tables.items()]
    if worst:
        mean = sum(m["error"] for m in run.modules.values()) / len(run.modules)
        plain = sum(m["rtn_error"] for m in run.modules.values()) / len(run.modules)
        notes.append(
            f"mean relative output error {mean:.2e} (round-to-nearest {plain:.2e}); worst {worst[0][0]} at {worst[0][1]['error']:.2e}"
        )
    return notes, dict(worst)


def _pending(
    run: Run, model: Streamed, layers: Iterator[dict[str, PackedLinear]], dtype: torch.dtype, layout: Layout, choice: Choice
) -> Pending:  # fmt: skip
    """The tensors to write, made a layer at a time: packed linears, everything else in `dtype`."""
    family, schemes = model.family, {**choice.layers, **choice.tables}
    packed = {f"{name}.weight" for name in schemes}
    specs: dict[str, Tensor] = {}
    for key, spec in model.specs.items():
        if key in packed:
            name = key.removesuffix(".weight")
            specs |= {f"{name}.{part}": t for part, t in layout.specs(spec.shape[0], spec.shape[1], schemes[name]).items()}
        else:
            specs[key] = spec.to(dtype)

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for index, layer in enumerate(layers):
            start = family.key(index, "", "")[:-1]
            for name, linear in layer.items():
                yield from ((f"{start}{name}.{part}", tensor.cpu()) for part, tensor in layout.write(linear).items())
            rest = tensors_of(model.path, lambda key, start=start: key.startswith(start) and key not in packed)
            yield from ((key, run.changed.pop(key, tensor).to("cpu", dtype)) for key, tensor in rest)
        rest = tensors_of(model.path, lambda key: not key.startswith(f"{family.layers}.") and key not in packed)
        yield from ((key, tensor.to(dtype)) for key, tensor in rest)
        for name, scheme in choice.tables.items():
            parts, error = packed_table(model.path, name, scheme, layout)
            run.tables[name] = error
            yield from ((f"{name}.{part}", tensor) for part, tensor in parts.items())

    return Pending(specs, tensors())
