"""Runs the prune step: score, decide, cut, write, and verify the result."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from torch import Tensor

from ...checkpoints.config import quantization, read_architecture
from ...checkpoints.directories import scratch_directory
from ...checkpoints.hashing import content_hash, read_provenance
from ...checkpoints.loading import pick_device
from ...checkpoints.streaming import Streamed
from ...checkpoints.writer import write_checkpoint
from ...errors import Refused, UsageError
from ...models import Architecture
from ...steps.context import StepContext, StepResult
from ..calibration.activation_buffer import ActivationBuffer
from .decision import decide, details_of, size_notes
from .experts import expert_details, expert_note
from .importance import Importance
from .kv_merge_step import merge_key_values
from .options import PruneOptions
from .rebuild import Rebuild, choose_proof, verify_rebuilt
from .scoring import score_checkpoint
from .sizes import merged_kv, sizes_after
from .two_four_step import sparsify

__all__ = ["CUT_LIST", "PruneOptions", "check_request", "preview", "prune"]

CUT_LIST = "cut.json"
"""File beside the weights: which heads, neurons, layers and experts of the original stay."""
PROOFS = {
    "stock": "reloaded whole with stock transformers",
    "streamed": "both streamed layer by layer, never loaded whole",
}
Phase = Callable[[PruneOptions, Path, Path, StepContext, dict[str, Any]], StepResult]
"""Reads a checkpoint, writes the next one, and adds to the provenance; see `_remove`."""


def prune(options: PruneOptions, source: Path, out: Path, context: StepContext) -> StepResult:
    """Write a smaller copy of `source`, a 2:4 sparse one, or one that is both, to `out`.

    Args:
        options: what to remove.
        source: a floating-point checkpoint.
        out: the directory to make.
        context: calibration data, device, seed, and how to verify.

    Returns:
        Notes for the user, and details.

    Raises:
        UsageError: the options remove nothing, or the input is broken.
        Refused: the model cannot be cut this way, or is quantized already.
        EdgewrightError: the result differs from the masked original; nothing is kept then.
    """
    check_request(options, source)
    phases = _phases(options)
    provenance: dict[str, Any] = {
        "kind": "checkpoint",
        "step": "prune",
        "source": content_hash(source),
        "options": options.model_dump(),
        "calibration": context.calibration.identity(),
    }
    was_sparse = bool(read_provenance(source).get("sparsity"))
    summary = StepResult()
    with ExitStack() as stack:
        for number, phase in enumerate(phases, 1):
            last = number == len(phases)
            made = (
                out
                if last
                else stack.enter_context(scratch_directory(out.with_name(f".{out.name}.{number}")))
            )
            result = phase(options, source, made, context, provenance)
            # Without duplicates: every phase has the same notes on calibration rows.
            notes = dict.fromkeys(summary.notes + result.notes)
            summary = StepResult(list(notes), summary.details | result.details)
            source = made
    if was_sparse and not options.sparsity:
        summary.notes.append(
            "the source is 2:4 sparse and a cut may break the pattern: "
            "give --sparsity 2:4 to restore it"
        )
    return summary


def _phases(options: PruneOptions) -> list[Phase]:
    """The phases that the options ask for, in the order in which they run."""
    all_phases = (
        (options.merge_kv is not None, merge_key_values),
        (options.removes, _remove),
        (options.sparsity is not None, _sparsify),
    )
    return [phase for asked, phase in all_phases if asked]


def check_request(options: PruneOptions, source: Path) -> None:
    """Refuse impossible options before any weight is read; see `prune` for the errors."""
    architecture = read_architecture(source)
    if quantization(architecture.config):
        raise Refused(f"{source}: quantized already", "prune first, then quantize")
    if options.budget:
        raise UsageError(
            "a budget was not resolved into shares",
            "give the shares (heads, ffn), or run this as a step of its own",
        )
    if not options.removes and options.merge_kv is None and not options.sparsity:
        raise UsageError(
            "nothing to prune",
            "give --heads, --kv-heads, --ffn, --layers, --experts, --merge-kv or --sparsity",
        )
    if options.merge_kv is not None:
        architecture = merged_kv(architecture, options.merge_kv)
    sizes_after(options, architecture)


def preview(
    options: PruneOptions, source: Path, context: StepContext
) -> tuple[dict[str, Any], Architecture]:
    """Decide as `prune` does, and write nothing.

    Args:
        options: what to remove.
        source: a floating-point checkpoint.
        context: calibration data, device and seed.

    Returns:
        Details of what `prune` would remove, and the architecture of the pruned model.

    Raises:
        EdgewrightError: as `prune` does.
    """
    check_request(options, source)
    with tempfile.TemporaryDirectory() as folder:
        if options.merge_kv is not None:
            merge_key_values(options, source, Path(folder) / "merged", context, {})
            source = Path(folder) / "merged"
        architecture = read_architecture(source)
        rows = context.calibration.rows(source, context.seed)
        buffer = ActivationBuffer(context.activation_budget, Path(folder))
        scores = _scores(options, source, rows, context, buffer)
        decision = decide(options, architecture, scores, context.seed)
    sizes = decision.kept.sizes(architecture.attention_sizes)
    small = architecture.resized(**sizes, layers=decision.kept.layers)
    notes = [
        *size_notes(architecture, small),
        *decision.notes,
        *context.calibration.notes(rows),
    ]
    return details_of(decision, architecture) | {"notes": notes}, small


def _remove(
    options: PruneOptions, source: Path, out: Path, context: StepContext, provenance: dict[str, Any]
) -> StepResult:
    """Cut heads, neurons, layers and experts; add lists of what was removed to `provenance`."""
    architecture = read_architecture(source)
    device = pick_device(context.device)
    rows = context.calibration.rows(source, context.seed)
    buffer = ActivationBuffer(context.activation_budget, out.parent)
    scores = _scores(options, source, rows, context, buffer)
    decision = decide(options, architecture, scores, context.seed)
    kept = decision.kept
    model = Streamed(source, device)
    rebuilt = Rebuild(model, kept, rows, buffer, compensate=options.compensate)
    removed = kept.removed_heads(architecture.attention_sizes.heads)
    provenance |= {"calibration": context.calibration.used(rows)}
    provenance |= {"removed_heads": removed, "kept_layers": kept.layers}
    provenance |= {"kept_experts": kept.experts} if kept.experts else {}
    proof = choose_proof(context.proof, rebuilt, device)
    gap: list[float] = []
    write_checkpoint(
        out,
        rebuilt.pending(),
        dict(rebuilt.architecture.config),
        source,
        provenance,
        files={CUT_LIST: vars(kept)},
        verify=lambda made: gap.append(verify_rebuilt(made, rebuilt, proof, device)),
    )
    sizes, *remarks = size_notes(architecture, rebuilt.architecture)
    equality = (
        f"logits equal those of the masked original to {gap[0]:.1e} (relative; {PROOFS[proof]})"
    )
    details = details_of(decision, architecture) | {
        "max_relative_difference": gap[0],
        "proof": proof,
    }
    entries = expert_details(decision.scores.experts, rebuilt.usage, kept.experts)
    balance = [expert_note(entries)] if entries else []
    details |= {"experts": entries} if entries else {}
    notes = [sizes, *balance, equality, *remarks, *decision.notes]
    return StepResult(notes + context.calibration.notes(rows), details)


def _sparsify(
    options: PruneOptions, source: Path, out: Path, context: StepContext, provenance: dict[str, Any]
) -> StepResult:
    """Set two of every four weights of a row to zero."""
    return sparsify(options.sparsity_method, source, out, context, provenance)


def _scores(
    options: PruneOptions,
    source: Path,
    rows: list[Tensor],
    context: StepContext,
    buffer: ActivationBuffer,
) -> Importance:
    """The importance of heads, neurons, layers and experts."""
    device = pick_device(context.device)
    return score_checkpoint(source, rows, options.criterion, context.seed, device, buffer)
