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
    read_family,
    read_provenance,
    scratch_directory,
    write_checkpoint,
)
from ...checkpoints.loading import load_model, pick_device
from ...checkpoints.streaming import Streamed
from ...errors import Refused, UsageError
from ...models import Family, Shape, family_of
from ...steps.context import StepContext, StepResult
from ..calibration.activation_buffer import Room
from .cut import Kept
from .experts import choose_experts, expert_details, expert_note
from .importance import Importance, measure, measure_layers
from .kv_merge_step import merge_key_values
from .options import PruneOptions
from .rebuild import Rebuild, choose_proof, prove_rebuilt
from .selection import choose_heads, choose_layers, choose_neurons, share_below
from .sizes import merged_config, sizes_after
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

    kept: Kept
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
            told = StepResult(told.notes + result.notes, told.details | result.details)
            source = made
    if was_sparse and not options.sparsity:
        told.notes.append(
            "the source is 2:4 sparse and a cut may break the pattern: ask for sparsity again to be sure of it"
        )
    return told


def check_request(options: PruneOptions, source: Path) -> None:
    """Refuse, before any weight is read, what cannot be done to `source` at all; see `prune`."""
    family, config = read_family(source)
    if quantization(config):
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
        config = merged_config(family, config, options.merge_kv)
    sizes_after(options, family, config)


def decide(
    options: PruneOptions,
    family: Family,
    config: Mapping[str, Any],
    scores: Importance,
    seed: int = 0,
) -> Choice:
    """Choose by score which heads, neurons, layers and experts of a model stay; `seed` is that of the random criterion."""
    shape = family.shape(config)
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
    sizes = sizes_after(options, family, config)
    at_random = seed if options.criterion == "random" else None
    kept = Kept(
        choose_heads(scores.heads, shape.num_key_value_heads, sizes["heads"], sizes["kv_heads"]),
        choose_neurons(scores.neurons, sizes["ffn"]),
        choose_layers(scores.layers, options.layers),
        choose_experts(scores.experts, shape.num_hidden_layers, sizes["experts"], at_random)
        if options.experts
        else [],
    )
    return Choice(kept, scores, [*notes, *_unlike_asked(options, shape, sizes)])


def preview(
    options: PruneOptions, source: Path, context: StepContext
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `prune` would remove, and the config.json that would be left; nothing is kept. Raises as `prune` does."""
    check_request(options, source)
    with tempfile.TemporaryDirectory() as folder:
        if options.merge_kv is not None:
            merge_key_values(options, source, Path(folder) / "merged", context, {})
            source = Path(folder) / "merged"
        family, config = read_family(source)
        shape = family.shape(config)
        rows = context.calibration.rows(source, context.seed)
        scores = _scores(
            options, source, shape, rows, context, Room(context.activation_budget, Path(folder))
        )
        choice = decide(options, family, config, scores, context.seed)
    small = family.resized(config, **choice.kept.sizes(shape), layers=choice.kept.layers)
    return _found(choice, shape) | {
        "notes": [*_size_notes(family, config, small), *choice.notes]
    }, small


def _found(choice: Choice, shape: Shape) -> dict[str, Any]:
    found = {
        "head_importance": choice.scores.heads.tolist(),
        "pruned_heads": choice.kept.removed_heads(shape),
        "layer_influence": choice.scores.layers.tolist(),
        "kept_layers": choice.kept.layers,
    }
    return found | ({"kept_experts": choice.kept.experts} if choice.kept.experts else {})


def _unlike_asked(options: PruneOptions, shape: Shape, sizes: Mapping[str, int]) -> list[str]:
    """Where the nearest legal count is not what was asked for."""
    heads = options.heads if shape.group > 1 else 0.0
    groups = options.kv_heads or (options.heads if shape.group == 1 else 0.0)
    asked = {
        "query heads": (
            1 - (1 - heads) * (1 - groups),
            1 - sizes["heads"] / shape.num_attention_heads,
        ),
        "FFN neurons": (options.ffn, 1 - sizes["ffn"] / shape.intermediate_size),
        "experts": (
            options.experts,
            1 - sizes["experts"] / shape.experts.count if shape.experts else 0.0,
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
    family, config = read_family(source)
    shape, device = family.shape(config), pick_device(context.device)
    rows = context.calibration.rows(source, context.seed)
    room = Room(context.activation_budget, out.parent)
    choice = decide(
        options, family, config, _scores(options, source, shape, rows, context, room), context.seed
    )
    kept = choice.kept
    rebuilt = Rebuild(
        Streamed(source, device), shape, kept, rows, room, compensate=options.compensate
    )
    provenance |= {"removed_heads": kept.removed_heads(shape), "kept_layers": kept.layers}
    provenance |= {"kept_experts": kept.experts} if kept.experts else {}
    proof = choose_proof(context.proof, rebuilt, device)
    gap: list[float] = []
    write_checkpoint(
        out,
        rebuilt.pending(),
        rebuilt.config,
        source,
        provenance,
        files={CUT_LIST: vars(kept)},
        verify=lambda made: gap.append(prove_rebuilt(made, rebuilt, proof, device)),
    )
    sizes, *remarks = _size_notes(family, config, rebuilt.config)
    equality = (
        f"logits equal those of the masked original to {gap[0]:.1e} (relative; {PROOFS[proof]})"
    )
    details = _found(choice, shape) | {"max_relative_difference": gap[0], "proof": proof}
    entries = expert_details(choice.scores.experts, rebuilt.usage, kept.experts)
    balance = [expert_note(entries)] if entries else []
    details |= {"experts": entries} if entries else {}
    return StepResult([sizes, *balance, equality, *remarks, *choice.notes], details)


def _sparsify(
    options: PruneOptions, source: Path, out: Path, context: StepContext, provenance: dict[str, Any]
) -> StepResult:
    """Zero two of every four inputs."""
    return sparsify(options.sparsity_method, source, out, context, provenance, prove)


def _scores(
    options: PruneOptions,
    source: Path,
    shape: Shape,
    rows: list[Tensor],
    context: StepContext,
    room: Room,
) -> Importance:
    """The importance of everything: by gradient on the whole model, by any other criterion layer by layer from disk."""
    device = pick_device(context.device)
    if options.criterion == "taylor":
        family, _ = read_family(source)
        return measure(
            load_model(source, device), family, shape, rows, options.criterion, context.seed
        )
    return measure_layers(
        Streamed(source, device), shape, rows, options.criterion, context.seed, room
    )


def _size_notes(family: Family, config: dict[str, Any], small: dict[str, Any]) -> list[str]:
    old, new = family.shape(config), family_of(small).shape(small)
    before, after = family.parameters(config), family_of(small).parameters(small)
    sizes = [
        (name, getattr(old, size), getattr(new, size))
        for name, size in (
            ("query heads", "num_attention_heads"),
            ("key/value heads", "num_key_value_heads"),
            ("FFN", "intermediate_size"),
            ("layers", "num_hidden_layers"),
        )
    ]
    sizes += (
        [("experts", old.experts.count, new.experts.count)] if old.experts and new.experts else []
    )
    changed = ", ".join(f"{name} {a} -> {b}" for name, a, b in sizes if a != b)
    notes = [f"{changed or 'nothing removed'}: {before:,} -> {after:,} parameters"]
    if small["model_type"] != config["model_type"]:
        notes.append(
            f"written as `{small['model_type']}`: the same arithmetic, and stock transformers refuses this head count "
            f"as `{config['model_type']}`"
        )
    if new.num_attention_heads * new.head_dim % 128:
        notes.append(
            f"heads * head_dim is no multiple of 128: INT4 kernels with groups of 128 will refuse {family.o}"
        )
    return notes
