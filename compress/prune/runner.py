"""The prune step: score, choose, cut, write, and prove that the result is the masked original."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ...checkpoints.config import quantization
from ...checkpoints.files import (
    content_hash,
    read_architecture,
    read_provenance,
    scratch_directory,
    write_checkpoint,
)
from ...checkpoints.loading import pick_device
from ...checkpoints.streaming import Streamed
from ...errors import Refused, UsageError
from ...models import Architecture
from ...steps.context import StepContext, StepResult
from ..calibration.activation_buffer import ActivationBuffer
from .criteria import CRITERIA
from .cut import KeptParts
from .experts import choose_experts, expert_details, expert_note
from .importance import Importance
from .kv_merge_step import merge_key_values
from .options import PruneOptions
from .rebuild import Rebuild, choose_proof, prove_rebuilt
from .scoring import score_checkpoint
from .selection import choose_heads, choose_layers, choose_neurons, share_below
from .sizes import merged_kv, sizes_after
from .two_four_step import sparsify
from .verify import prove

__all__ = ["CUT_LIST", "Choice", "PruneOptions", "check_request", "decide", "preview", "prune"]

CUT_LIST = "cut.json"
"""Which query heads, FFN neurons, layers and experts of the original stay, beside the weights."""
PROOFS = {
    "stock": "reloaded whole with stock transformers",
    "streamed": "both streamed layer by layer, never loaded whole",
}


@dataclass
class Choice:
    """What a prune step decided, and what it decided it by."""

    kept: KeptParts
    scores: Importance
    notes: list[str]


def prune(options: PruneOptions, source: Path, out: Path, context: StepContext) -> StepResult:
    """Write a physically smaller copy of `source`, a 2:4 sparse one, or one that is both, to `out`.

    Raises:
        UsageError: nothing to prune was asked for, or the input is broken.
        Refused: the model cannot be cut this way, or is quantized already.
        EdgewrightError: the result does not compute what the masked original computes (nothing is kept then).
    """
    check_request(options, source)
    wanted = (
        (options.merge_kv is not None, merge_key_values),
        (options.removes, _remove),
        (options.sparsity is not None, _sparsify),
    )
    phases = [phase for asked, phase in wanted if asked]
    provenance = {
        "kind": "checkpoint",
        "step": "prune",
        "source": content_hash(source),
        "options": options.model_dump(),
        "calibration": vars(context.calibration),
    }
    was_sparse, told = bool(read_provenance(source).get("sparsity")), StepResult()
    with ExitStack() as stack:
        for number, phase in enumerate(phases, 1):
            last = number == len(phases)
            made = (
                out
                if last
                else stack.enter_context(scratch_directory(out.with_name(f".{out.name}.{number}")))
            )
            result = phase(options, source, made, context, provenance)
            notes = dict.fromkeys(told.notes + result.notes)  # each phase draws the same rows
            told = StepResult(list(notes), told.details | result.details)
            source = made
    if was_sparse and not options.sparsity:
        told.notes.append(
            "the source is 2:4 sparse and a cut may break the pattern: ask for sparsity again to be sure of it"
        )
    return told


def check_request(options: PruneOptions, source: Path) -> None:
    """Refuse, before any weight is read, what cannot be done to `source` at all; see `prune`."""
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


def decide(
    options: PruneOptions,
    architecture: Architecture,
    scores: Importance,
    seed: int = 0,
) -> Choice:
    """Choose by score which heads, neurons, layers and experts of a model stay; `seed` is that of the random criterion."""
    notes: list[str] = []
    for name, of in (("heads", scores.heads), ("ffn", scores.neurons)):
        threshold = getattr(options, f"{name}_threshold")
        if threshold is not None:
            share = share_below(of, threshold)
            notes.append(
                f"{share:.1%} of the {name} score below {threshold:g} of their layer's mean"
            )
            if not share:
                least = float((of / of.mean(-1, keepdim=True)).min())
                raise Refused(
                    f"{name}_threshold {threshold:g}: nothing scores so low, so nothing would be pruned",
                    f"the least important of the {name} has {least:.3g} of its layer's mean",
                )
            options = options.model_copy(update={name: share, f"{name}_threshold": None})
    sizes = sizes_after(options, architecture)
    kv_heads, count = architecture.attention_sizes.kv_heads, len(architecture.layers)
    at_random = seed if CRITERIA[options.criterion].at_random else None
    kept = KeptParts(
        choose_heads(scores.heads, kv_heads, sizes["heads"], sizes["kv_heads"]),
        choose_neurons(scores.neurons, sizes["ffn"]),
        choose_layers(scores.layers, options.layers),
        choose_experts(scores.experts, count, sizes["experts"], at_random)
        if options.experts
        else [],
    )
    return Choice(kept, scores, [*notes, *_unlike_asked(options, architecture, sizes)])


def preview(
    options: PruneOptions, source: Path, context: StepContext
) -> tuple[dict[str, Any], Architecture]:
    """What `prune` would remove, and the architecture that would be left; nothing is written.

    Raises:
        EdgewrightError: whatever `prune` raises.
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
        choice = decide(options, architecture, scores, context.seed)
    sizes = choice.kept.sizes(architecture.attention_sizes)
    small = architecture.resized(**sizes, layers=choice.kept.layers)
    notes = [*_size_notes(architecture, small), *choice.notes, *context.calibration.shortfall(rows)]
    return _found(choice, architecture) | {"notes": notes}, small


def _found(choice: Choice, architecture: Architecture) -> dict[str, Any]:
    found = {
        "head_importance": choice.scores.heads.tolist(),
        "pruned_heads": choice.kept.removed_heads(architecture.attention_sizes.heads),
        "layer_influence": choice.scores.layers.tolist(),
        "kept_layers": choice.kept.layers,
    }
    return found | ({"kept_experts": choice.kept.experts} if choice.kept.experts else {})


def _unlike_asked(
    options: PruneOptions, architecture: Architecture, sizes: Mapping[str, int]
) -> list[str]:
    """Where the nearest legal count is not what was asked for."""
    have, experts = architecture.attention_sizes, architecture.experts
    heads = options.heads if have.group > 1 else 0.0
    groups = options.kv_heads or (options.heads if have.group == 1 else 0.0)
    asked = {
        "query heads": (
            1 - (1 - heads) * (1 - groups),
            1 - sizes["heads"] / have.heads,
        ),
        "FFN neurons": (options.ffn, 1 - sizes["ffn"] / architecture.intermediate_size),
        "experts": (
            options.experts,
            1 - sizes["experts"] / experts.count if experts else 0.0,
        ),
    }
    return [
        f"asked to remove {want:.0%} of the {what}, removed {done:.0%}: the nearest that loads and runs well everywhere"
        for what, (want, done) in asked.items()
        if abs(want - done) > 0.005
    ]


def _remove(
    options: PruneOptions, source: Path, out: Path, context: StepContext, provenance: dict[str, Any]
) -> StepResult:
    """Cut heads, neurons, layers and experts, and add to the provenance which."""
    architecture, device = read_architecture(source), pick_device(context.device)
    rows = context.calibration.rows(source, context.seed)
    buffer = ActivationBuffer(context.activation_budget, out.parent)
    scores = _scores(options, source, rows, context, buffer)
    choice = decide(options, architecture, scores, context.seed)
    kept = choice.kept
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
        verify=lambda made: gap.append(prove_rebuilt(made, rebuilt, proof, device)),
    )
    sizes, *remarks = _size_notes(architecture, rebuilt.architecture)
    equality = (
        f"logits equal those of the masked original to {gap[0]:.1e} (relative; {PROOFS[proof]})"
    )
    details = _found(choice, architecture) | {"max_relative_difference": gap[0], "proof": proof}
    entries = expert_details(choice.scores.experts, rebuilt.usage, kept.experts)
    balance = [expert_note(entries)] if entries else []
    details |= {"experts": entries} if entries else {}
    notes = [sizes, *balance, equality, *remarks, *choice.notes]
    return StepResult(notes + context.calibration.shortfall(rows), details)


def _sparsify(
    options: PruneOptions, source: Path, out: Path, context: StepContext, provenance: dict[str, Any]
) -> StepResult:
    """Zero two of every four inputs."""
    return sparsify(options.sparsity_method, source, out, context, provenance, prove)


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


def _size_notes(before: Architecture, after: Architecture) -> list[str]:
    """What changed in size, and what readers of the cut model should know."""
    old, new = before.attention_sizes, after.attention_sizes
    sizes = [
        ("query heads", old.heads, new.heads),
        ("key/value heads", old.kv_heads, new.kv_heads),
        ("FFN", before.intermediate_size, after.intermediate_size),
        ("layers", len(before.layers), len(after.layers)),
    ]
    if before.experts and after.experts:
        sizes.append(("experts", before.experts.count, after.experts.count))
    changed = ", ".join(f"{name} {a} -> {b}" for name, a, b in sizes if a != b)
    notes = [
        f"{changed or 'nothing removed'}: {before.parameters:,} -> {after.parameters:,} parameters"
    ]
    if after.model_type != before.model_type:
        notes.append(
            f"written as `{after.model_type}`: the same arithmetic, and stock transformers refuses "
            f"this head count as `{before.model_type}`"
        )
    if new.heads * new.head_dim % 128:
        name = after.layers[0].attention.o.name
        notes.append(
            "heads * head_dim is no multiple of 128: INT4 kernels with groups of 128 will refuse "
            f"{name}"
        )
    return notes
