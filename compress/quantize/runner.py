"""Run the quantize step: write a packed copy of a checkpoint, one decoder layer at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from ...checkpoints.compute_dtype import uses_bf16
from ...checkpoints.config import quantization, read_architecture
from ...checkpoints.hashing import content_hash, read_provenance
from ...checkpoints.layouts import LAYOUTS, Layout, Scheme
from ...checkpoints.layouts.gptq import Gptq
from ...checkpoints.loading import pick_device
from ...checkpoints.memory import reused_memory
from ...checkpoints.own_files import check_output
from ...checkpoints.streaming import Streamed
from ...checkpoints.tensors import check_finite, stored_dtype
from ...checkpoints.wrapped import block_in_files
from ...checkpoints.writer import write_checkpoint
from ...errors import Refused
from ...models import Architecture
from ...steps.context import StepContext, StepResult
from ...steps.workspace import workspace
from ..calibration.activation_buffer import ActivationBuffer
from .assignment import Assignment, assign_schemes, with_kv_rules
from .checkpoint_stream import packed_tensors
from .one_pass import one_pass_layers
from .options import QuantizeOptions
from .resume_journal import FINISHED, Journal
from .scaling import Scaler
from .sensitivity import (
    MatrixSensitivity,
    measure_sensitivity,
    select_matrices,
    sensitivity_report,
)
from .sequential import MIN_TOKENS_PER_CHANNEL, sequential_layers
from .session import QuantizeSession

__all__ = ["quantize"]

LARGE_BYTES = 2**29
"""Size of a float32 Hessian from which freed memory is returned at once."""


def quantize(options: QuantizeOptions, source: Path, out: Path, context: StepContext) -> StepResult:
    """Write a packed copy of `source`, in the layout that `options.format` names, to `out`.

    If `context.depends_on` says what the result depends on, finished layers are kept in a journal
    beside `out`. Run the same step again to resume from the last finished layer.

    Raises:
        Refused: the source is quantized already, a group size does not divide a width, a method
            does not work with experts, or the disk is full.
        UsageError: the input is broken, or a rule matches nothing.
    """
    architecture = read_architecture(source)
    if quantization(architecture.config):
        raise Refused(
            f"{source}: quantized already",
            "quantize the floating-point checkpoint it was made from",
        )
    assign_schemes(architecture, with_kv_rules(architecture, options))
    check_output(out)
    check_finite(source)
    keeping = _memory_of(architecture)
    if not context.depends_on:
        with keeping:
            return _write_quantized(options, source, out, context, None)
    layers = len(architecture.layers)
    with (
        workspace(out, "journal", context.depends_on, FINISHED, context.fresh) as folder,
        closing(Journal(folder, layers)) as journal,
        keeping,
    ):
        return _write_quantized(options, source, out, context, journal)


def _memory_of(architecture: Architecture) -> AbstractContextManager[None]:
    """Reuse freed memory, unless matrices are so large that the gaps between them would matter.

    Of a model with 7 billion parameters, the gaps took as much memory as the matrices.
    """
    widest = max(inputs for _, inputs in architecture.linears().values())
    return nullcontext() if 4 * widest**2 > LARGE_BYTES else reused_memory()


def _write_quantized(
    options: QuantizeOptions, source: Path, out: Path, context: StepContext, journal: Journal | None
) -> StepResult:
    """Quantize all layers and write the checkpoint."""
    architecture = read_architecture(source)
    dtype = stored_dtype(architecture.config)
    rows = context.calibration.rows(source, context.seed)
    layout = LAYOUTS[options.format]
    model = Streamed(source, pick_device(context.device))
    buffer = ActivationBuffer(context.activation_budget, out.parent)
    bf16 = uses_bf16(options.bf16, model.device)
    ruled = with_kv_rules(architecture, options)
    final, measured = _apply_sensitivity(ruled, model, rows, buffer, journal, bf16)
    assignment = assign_schemes(architecture, final)
    session = QuantizeSession(final, bf16, journal=journal)
    scaler = Scaler(session, dtype)
    make_layers = sequential_layers if options.method in ("gptq", "rtn") else one_pass_layers
    layers = make_layers(session, model, rows, buffer, scaler)
    tensors = packed_tensors(session, model, layers, dtype, layout, assignment)
    block = block_in_files(_config_block(layout, final, assignment), architecture.config, source)
    provenance = {
        "kind": "checkpoint",
        "step": "quantize",
        "source": content_hash(source),
        "options": options.model_dump(),
        "calibration": context.calibration.used(rows),
        "bf16": bf16,
        "fallbacks": session.notes,
    }
    write_checkpoint(
        out,
        tensors,
        {**architecture.config, "quantization_config": block},
        source,
        provenance,
        files=layout.files(block),
    )
    worst_first = dict(sorted(session.modules.items(), key=lambda item: -item[1]["error"]))
    notes = _summary(session, worst_first, options, assignment)
    notes += context.calibration.notes(rows)
    if read_provenance(source).get("sparsity"):
        notes.append(
            "the source is 2:4 sparse; rounding may not preserve the zeros, so the result counts "
            "as dense"
        )
    details = {"modules": worst_first, "starved": session.starved, **measured.details}
    return StepResult(notes + session.notes + measured.notes, details)


def _config_block(
    layout: Layout, options: QuantizeOptions, assignment: Assignment
) -> dict[str, Any]:
    """The `quantization_config` of config.json."""
    scheme = Scheme(options.bits, options.group_size, options.sym)
    if not isinstance(layout, Gptq):
        return layout.config(scheme, options.damp, assignment.skipped)
    return layout.config(
        scheme,
        options.damp,
        assignment.skipped,
        desc_act=options.permuted,
        dynamic=assignment.dynamic(options),
        lm_head=assignment.head in assignment.vocab,
    )


def _apply_sensitivity(
    options: QuantizeOptions,
    model: Streamed,
    rows: list[Tensor],
    buffer: ActivationBuffer,
    journal: Journal | None,
    bf16: bool,
) -> tuple[QuantizeOptions, StepResult]:
    """Measure sensitivity, if the options ask for it, and give the worst matrices more bits.

    Returns:
        The options with a rule for every matrix that gets more bits, and the measurements.
    """
    if options.sensitivity is None:
        return options, StepResult()
    assignment = assign_schemes(model.architecture, options)
    schemes = assignment.schemes
    bits = options.sensitivity.keep_bits
    budget = options.sensitivity.bytes_of(assignment.quantized_bytes)

    def measure() -> dict[str, Any]:
        tokens = options.hessian_tokens
        found = measure_sensitivity(model, rows, buffer, schemes, bits, tokens, bf16)
        return {name: asdict(matrix) for name, matrix in found.items()}

    values = journal.once("sensitivity", measure) if journal else measure()
    found = {name: MatrixSensitivity(**fields) for name, fields in values.items()}
    kept = select_matrices(found, budget)
    spent = sum(found[name].extra_bytes for name in kept)
    note = (
        f"sensitivity: {len(kept)} of {len(found)} matrices kept at {bits} bit for {spent:,} bytes "
        f"more, of {budget:,} allowed"
    )
    final = options.with_kept_bits({name: schemes[name] for name in kept})
    return final, StepResult([note], {"sensitivity": sensitivity_report(found, kept)})


def _summary(
    session: QuantizeSession,
    worst_first: Mapping[str, Mapping[str, float]],
    options: QuantizeOptions,
    assignment: Assignment,
) -> list[str]:
    """Notes for the report: what was quantized, and how large the errors are."""
    counts = Counter(scheme.bits for scheme in assignment.linears.values())
    quantized = ", ".join(
        f"{count} linear layers to {bits} bit" for bits, count in sorted(counts.items())
    )
    note = (
        f"{quantized or 'no linear layer quantized'}, "
        f"{'symmetric' if options.sym else 'asymmetric'}, group {options.group_size}"
    )
    unchanged = len(assignment.shapes.keys() - assignment.schemes.keys())
    if unchanged:
        note += f"; {unchanged} matrices stay as they were"
    notes = [note]
    notes += [
        f"{name} to {assignment.vocab[name].bits} bit, relative weight error {error:.2e}"
        for name, error in session.vocab_errors.items()
    ]
    if worst_first:
        errors = list(session.modules.values())
        mean = sum(module["error"] for module in errors) / len(errors)
        plain = sum(module["rtn_error"] for module in errors) / len(errors)
        worst, values = next(iter(worst_first.items()))
        notes.append(
            f"mean relative output error {mean:.2e} (round-to-nearest {plain:.2e}); worst {worst} "
            f"at {values['error']:.2e}"
        )
    if session.starved:
        notes.append(_starved_note(session.starved))
    return notes


def _starved_note(tokens: Mapping[str, int]) -> str:
    """A note on the experts that got too few calibration tokens for GPTQ."""
    experts = {name.rpartition(".")[0]: count for name, count in tokens.items()}
    fewest = sorted(experts.items(), key=lambda item: item[1])[:3]
    listed = ", ".join(f"{name} {count}" for name, count in fewest)
    return (
        f"{len(tokens)} linear layers of {len(experts)} experts rounded to nearest, because they "
        f"got fewer than {MIN_TOKENS_PER_CHANNEL:g} calibration tokens per input channel (fewest: "
        f"{listed}); use more --samples to avoid this"
    )
