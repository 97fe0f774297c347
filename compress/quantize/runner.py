"""The quantize step: a packed copy of a checkpoint, made and written one decoder layer after the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from ...checkpoints.config import quantization
from ...checkpoints.files import (
    check_finite,
    check_output,
    content_hash,
    read_architecture,
    read_provenance,
    stored_dtype,
    write_checkpoint,
)
from ...checkpoints.layouts import LAYOUTS, Layout, Scheme
from ...checkpoints.layouts.gptq import Gptq
from ...checkpoints.loading import pick_device
from ...checkpoints.streaming import Streamed
from ...errors import Refused
from ...steps.context import StepContext, StepResult
from ...steps.workspace import workspace
from ..calibration.activation_buffer import ActivationBuffer
from ..calibration.mixed_precision import bf16_is_fast
from .assignment import Assignment, choose
from .checkpoint_stream import pending
from .one_pass import one_pass_layers
from .options import QuantizeOptions
from .resume_journal import FINISHED, Journal
from .scaling import Scaler
from .sensitivity import MatrixSensitivity, measure_sensitivity, select_matrices, table
from .sequential import MIN_TOKENS_PER_CHANNEL, sequential_layers
from .session import QuantizeSession

__all__ = ["quantize"]


def quantize(options: QuantizeOptions, source: Path, out: Path, context: StepContext) -> StepResult:
    """Write a packed copy of `source`, in the layout that `options.format` names, to `out`.

    Where `context.depends_on` says what the step depends on, finished layers are kept in a journal beside `out`, and a run that was
    interrupted goes on at its layer.

    Raises:
        Refused: already quantized, a width that its group size does not divide, what experts do not allow, or a full disk.
        UsageError: the input is broken, or a rule matches nothing.
    """
    architecture = read_architecture(source)
    if quantization(architecture.config):
        raise Refused(
            f"{source}: quantized already",
            "quantize the floating-point checkpoint it was made from",
        )
    choose(architecture, options)
    check_output(out)
    check_finite(source)
    if not context.depends_on:
        return _quantized(options, source, out, context, None)
    layers = len(architecture.layers)
    with (
        workspace(out, "journal", context.depends_on, FINISHED, context.fresh) as place,
        closing(Journal(place, layers)) as journal,
    ):
        return _quantized(options, source, out, context, journal)


def _quantized(
    options: QuantizeOptions, source: Path, out: Path, context: StepContext, journal: Journal | None
) -> StepResult:
    architecture = read_architecture(source)
    dtype = stored_dtype(architecture.config)
    rows, layout = context.calibration.rows(source, context.seed), LAYOUTS[options.format]
    model, buffer = (
        Streamed(source, pick_device(context.device)),
        ActivationBuffer(context.activation_budget, out.parent),
    )
    settled, told = _settled(options, choose(architecture, options), model, rows, buffer, journal)
    bf16 = bf16_is_fast(model.device) if options.bf16 is None else options.bf16
    choice, run = choose(architecture, settled), QuantizeSession(settled, bf16, journal=journal)
    scaler = Scaler(run, dtype)
    make = sequential_layers if options.method in ("gptq", "rtn") else one_pass_layers
    layers = make(run, model, rows, buffer, scaler)
    state = pending(run, model, layers, dtype, layout, choice)
    block = _block(layout, settled, choice)
    provenance = {
        "kind": "checkpoint",
        "step": "quantize",
        "source": content_hash(source),
        "options": options.model_dump(),
        "calibration": context.calibration.used(rows),
        "fallbacks": run.notes,
    }
    write_checkpoint(
        out,
        state,
        {**architecture.config, "quantization_config": block},
        source,
        provenance,
        files=layout.files(block),
    )
    notes, worst = _told(run, options, choice)
    notes += context.calibration.shortfall(rows)
    if read_provenance(source).get("sparsity"):
        notes.append(
            "the source is 2:4 sparse; rounding need not keep that, so that the result counts as dense"
        )
    return StepResult(
        notes + run.notes + told.notes, {"modules": worst, "starved": run.starved, **told.details}
    )


def _starved(tokens: Mapping[str, int]) -> str:
    """What to say of linear layers of experts that were given too few tokens."""
    experts = {name.rpartition(".")[0]: seen for name, seen in tokens.items()}
    fewest = sorted(experts.items(), key=lambda item: item[1])[:3]
    return (
        f"{len(tokens)} linear layers of {len(experts)} experts rounded to nearest, as fewer than {MIN_TOKENS_PER_CHANNEL:g} calibration tokens an input "
        f"channel went there (fewest: {', '.join(f'{name} {seen}' for name, seen in fewest)}); more --samples would change that"
    )


def _block(layout: Layout, options: QuantizeOptions, choice: Assignment) -> dict[str, Any]:
    """What config.json tells readers."""
    scheme, kept = Scheme(options.bits, options.group_size, options.sym), choice.kept
    if not isinstance(layout, Gptq):
        return layout.config(scheme, options.damp, kept)
    return layout.config(
        scheme,
        options.damp,
        kept,
        desc_act=options.permuted,
        dynamic=choice.dynamic(options),
        lm_head=choice.head in choice.tables,
    )


def _settled(
    options: QuantizeOptions,
    choice: Assignment,
    model: Streamed,
    rows: list[Tensor],
    buffer: ActivationBuffer,
    journal: Journal | None,
) -> tuple[QuantizeOptions, StepResult]:
    """The options with a rule for every matrix that is worth more bits, and what the measurement told."""
    if options.sensitivity is None:
        return options, StepResult()
    bits, budget = (
        options.sensitivity.keep_bits,
        options.sensitivity.bytes_of(choice.quantized_bytes),
    )
    schemes = {**choice.layers, **choice.tables}

    def measure() -> dict[str, Any]:
        return {
            name: asdict(finding)
            for name, finding in measure_sensitivity(model, rows, buffer, schemes, bits).items()
        }

    found = {
        name: MatrixSensitivity(**values)
        for name, values in (journal.once("sensitivity", measure) if journal else measure()).items()
    }
    kept = select_matrices(found, budget)
    spent = sum(found[name].extra_bytes for name in kept)
    note = f"sensitivity: {len(kept)} of {len(found)} matrices kept at {bits} bit for {spent:,} bytes more, of {budget:,} allowed"
    return options.keeping({name: schemes[name] for name in kept}), StepResult(
        [note], {"sensitivity": table(found, kept)}
    )


def _told(
    run: QuantizeSession, options: QuantizeOptions, choice: Assignment
) -> tuple[list[str], dict[str, dict[str, float]]]:
    """What to say of the errors, and those of every layer, the largest first."""
    worst = sorted(run.modules.items(), key=lambda item: -item[1]["error"])
    counts = Counter(scheme.bits for scheme in choice.layers.values())
    bits = ", ".join(
        f"{count} linear layers to {bits} bit" for bits, count in sorted(counts.items())
    )
    stay = len(choice.shapes.keys() - choice.layers.keys() - choice.tables.keys())
    notes = [
        f"{bits or 'no linear layer quantized'}, {'symmetric' if options.sym else 'asymmetric'}, group {options.group_size}"
    ]
    if stay:
        notes[0] += f"; {stay} matrices stay as they were"
    notes += [
        f"{name} to {choice.tables[name].bits} bit, relative weight error {error:.2e}"
        for name, error in run.tables.items()
    ]
    if worst:
        mean = sum(m["error"] for m in run.modules.values()) / len(run.modules)
        plain = sum(m["rtn_error"] for m in run.modules.values()) / len(run.modules)
        notes.append(
            f"mean relative output error {mean:.2e} (round-to-nearest {plain:.2e}); worst {worst[0][0]} at {worst[0][1]['error']:.2e}"
        )
    if run.starved:
        notes.append(_starved(run.starved))
    return notes, dict(worst)
