"""Decides by score which parts of a model stay, and describes the decision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import Refused
from ...models import Architecture
from .criteria import CRITERIA
from .cut import KeptParts
from .experts import choose_experts
from .importance import Importance
from .options import PruneOptions
from .selection import choose_heads, choose_layers, choose_neurons, share_below
from .sizes import sizes_after

__all__ = ["PruneDecision", "decide", "details_of", "size_notes"]


@dataclass
class PruneDecision:
    """Which parts of a model stay.

    Attributes:
        kept: the parts that stay.
        scores: the importance that this was decided by.
        notes: for the user: thresholds as shares, and shares that were rounded.
    """

    kept: KeptParts
    scores: Importance
    notes: list[str]


def decide(
    options: PruneOptions,
    architecture: Architecture,
    scores: Importance,
    seed: int = 0,
) -> PruneDecision:
    """Decide by score which heads, neurons, layers and experts of a model stay.

    Args:
        options: what to remove, without a budget.
        architecture: of the uncut model.
        scores: of its parts.
        seed: for experts that are chosen at random.

    Raises:
        UsageError: a share or a count is out of range.
        Refused: a share has no legal count near it, or nothing scores below a threshold.
    """
    options, notes = _with_shares(options, scores)
    sizes = sizes_after(options, architecture)
    kv_heads = architecture.attention_sizes.kv_heads
    count = len(architecture.layers)
    at_random = seed if CRITERIA[options.criterion].at_random else None
    kept = KeptParts(
        choose_heads(scores.heads, kv_heads, sizes["heads"], sizes["kv_heads"]),
        choose_neurons(scores.neurons, sizes["ffn"]),
        choose_layers(scores.layers, options.layers),
        choose_experts(scores.experts, count, sizes["experts"], at_random)
        if options.experts
        else [],
    )
    return PruneDecision(kept, scores, [*notes, *_rounding_notes(options, architecture, sizes)])


def _with_shares(options: PruneOptions, scores: Importance) -> tuple[PruneOptions, list[str]]:
    """Turn thresholds into the shares that score below them; notes say how large these are."""
    notes: list[str] = []
    for name, parts in (("heads", scores.heads), ("ffn", scores.neurons)):
        threshold = getattr(options, f"{name}_threshold")
        if threshold is None:
            continue
        share = share_below(parts, threshold)
        notes.append(f"{share:.1%} of the {name} score below {threshold:g} of their layer's mean")
        if not share:
            least = float((parts / parts.mean(-1, keepdim=True)).min())
            raise Refused(
                f"{name}_threshold {threshold:g}: nothing scores so low, so nothing would be "
                "pruned",
                f"the least important of the {name} has {least:.3g} of its layer's mean",
            )
        options = options.model_copy(update={name: share, f"{name}_threshold": None})
    return options, notes


def details_of(decision: PruneDecision, architecture: Architecture) -> dict[str, Any]:
    """The decision as it appears in the result of the step.

    Args:
        decision: which parts stay.
        architecture: of the uncut model.
    """
    details = {
        "head_importance": decision.scores.heads.tolist(),
        "pruned_heads": decision.kept.removed_heads(architecture.attention_sizes.heads),
        "layer_influence": decision.scores.layers.tolist(),
        "kept_layers": decision.kept.layers,
    }
    return details | ({"kept_experts": decision.kept.experts} if decision.kept.experts else {})


def _rounding_notes(
    options: PruneOptions, architecture: Architecture, sizes: Mapping[str, int]
) -> list[str]:
    """Notes on counts that are not what was asked for, because of rounding."""
    have = architecture.attention_sizes
    experts = architecture.experts
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
        f"asked to remove {want:.0%} of the {what}, removed {done:.0%}: the nearest count "
        "that loads and runs well everywhere"
        for what, (want, done) in asked.items()
        if abs(want - done) > 0.005
    ]


def size_notes(before: Architecture, after: Architecture) -> list[str]:
    """Notes on what changed in size, and on how the pruned model can be used.

    Args:
        before: the uncut model.
        after: the pruned model.
    """
    old = before.attention_sizes
    new = after.attention_sizes
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
