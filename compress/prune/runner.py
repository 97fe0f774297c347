"""The prune step: score, choose, cut, write, and prove that the result is the masked original."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from ...checkpoint import content_hash, read_family, write_checkpoint
from ...errors import Refused, UsageError
from ...layouts import is_gptq
from ...loading import load_model, pick_device
from ...models import Family, Shape, family_of
from ...steps import StepContext, StepResult
from ...streaming import Streamed
from ..activations import Room
from .choose import choose_heads, choose_layers, choose_neurons, kept_heads
from .cut import Kept
from .importance import Criterion, Importance, measure, measure_layers
from .rebuild import Rebuild, choose_proof, prove

__all__ = ["PruneOptions", "prune"]

PROOFS = {"stock": "reloaded whole with stock transformers", "streamed": "both streamed layer by layer, never loaded whole"}


class PruneOptions(BaseModel):
    """What to cut and by which criterion."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    heads: float = Field(default=0.0, ge=0, lt=1, description="share of query heads to remove from every key/value group")
    ffn: float = Field(default=0.0, ge=0, lt=1, description="share of FFN neurons to remove")
    layers: int = Field(default=0, ge=0, description="how many layers to remove, those of least block influence first")
    criterion: Criterion = Field(default="taylor", description="how importance is measured")
    compensate: bool = Field(default=True, description="refit the output projections by least squares to make up for what goes")


def prune(options: PruneOptions, source: Path, out: Path, context: StepContext) -> StepResult:
    """Write a physically smaller copy of `source` to `out`.

    Raises:
        UsageError: nothing to prune was asked for, or the input is broken.
        Refused: the model cannot be cut this way, or is quantized already.
        EdgewrightError: the result does not compute what the masked original computes (nothing is kept then).
    """
    family, config = read_family(source)
    if is_gptq(config):
        raise Refused(f"{source}: quantized already", "prune first, then quantize")
    if not (options.heads or options.ffn or options.layers):
        raise UsageError("nothing to prune", "give --heads, --ffn or --layers")
    shape, device = family.shape(config), pick_device(context.device)
    keep = kept_heads(shape, options.heads, lambda n: family.accepts_heads(config, n))  # refuses before the calibration pass
    rows = context.calibration.rows(source, context.seed)
    room = Room(context.activation_budget, out.parent)
    scores = _scores(options, source, shape, rows, context, room)
    heads = choose_heads(scores.heads, shape.num_key_value_heads, keep)
    neurons = choose_neurons(scores.neurons, options.ffn)
    layers = choose_layers(scores.layers, options.layers)
    kept = Kept(heads, neurons, layers)
    rebuilt = Rebuild(Streamed(source, device), shape, kept, rows, room, compensate=options.compensate)
    removed = [sorted(set(range(shape.num_attention_heads)) - set(kept)) for kept in heads]
    provenance = {
        "kind": "checkpoint", "step": "prune", "source": content_hash(source), "options": options.model_dump(),
        "calibration": vars(context.calibration), "removed_heads": removed, "kept_layers": layers,
    }  # fmt: skip
    proof = choose_proof(context.proof, rebuilt, device)
    difference: list[float] = []
    write_checkpoint(
        out, rebuilt.pending(), rebuilt.config, source, provenance,
        verify=lambda made: difference.append(prove(made, rebuilt, proof, device)),
    )  # fmt: skip
    notes = _notes(options, family, config, rebuilt.config, f"{difference[0]:.1e} (relative; {PROOFS[proof]})")
    details = {
        "head_importance": scores.heads.tolist(), "pruned_heads": removed, "layer_influence": scores.layers.tolist(),
        "kept_layers": layers, "max_relative_difference": difference[0], "proof": proof,
    }  # fmt: skip
    return StepResult(notes, details)


def _scores(options: PruneOptions, source: Path, shape: Shape, rows: list[Tensor], context: StepContext, room: Room) -> Importance:
    """The importance of everything: by gradient on the whole model, by any other criterion layer by layer from disk."""
    device = pick_device(context.device)
    if options.criterion == "taylor":
        family, _ = read_family(source)
        return measure(load_model(source, device), family, shape, rows, options.criterion, context.seed)
    return measure_layers(Streamed(source, device), shape, rows, options.criterion, context.seed, room)


def _notes(options: PruneOptions, family: Family, config: dict[str, Any], small: dict[str, Any], equality: str) -> list[str]:
    old, new = family.shape(config), family_of(small).shape(small)
    before, after = family.parameters(config), family_of(small).parameters(small)
    notes = [
        f"query heads {old.num_attention_heads} -> {new.num_attention_heads}, FFN {old.intermediate_size} -> {new.intermediate_size}, "
        f"layers {old.num_hidden_layers} -> {new.num_hidden_layers}: {before:,} -> {after:,} parameters",
        f"logits equal those of the masked original to {equality}",
    ]
    for what, asked, done in (
        ("query heads", options.heads, 1 - new.num_attention_heads / old.num_attention_heads),
        ("FFN neurons", options.ffn, 1 - new.intermediate_size / old.intermediate_size),
    ):
        if abs(asked - done) > 0.005:
            notes.append(f"asked to remove {asked:.0%} of the {what}, removed {done:.0%}: the nearest that loads and runs well everywhere")
    if small["model_type"] != config["model_type"]:
        notes.append(
            f"written as `{small['model_type']}`: the same arithmetic, and stock transformers refuses this head count "
            f"as `{config['model_type']}`"
        )
    if new.num_attention_heads * new.head_dim % 128:
        notes.append(f"heads * head_dim is no multiple of 128: INT4 kernels with groups of 128 will refuse {family.o}")
    return notes
