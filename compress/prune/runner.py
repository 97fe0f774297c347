"""The prune step: score, choose, cut, write, and prove that the result is the masked original."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from ...checkpoint import content_hash, read_family, read_state, write_checkpoint
from ...console import progress
from ...errors import Refused, UsageError
from ...layouts import is_gptq
from ...loading import load_model, pick_device
from ...models import Family, family_of, weight_of
from ...steps import StepContext, StepResult
from .choose import choose_heads, choose_layers, choose_neurons, kept_heads
from .compensate import compensate
from .cut import Kept, cut
from .experts import choose_experts, expert_details, expert_note, kept_experts, run_watched, watched
from .importance import Criterion, masked, measure
from .proof import probes_from, prove

__all__ = ["PruneOptions", "prune"]


class PruneOptions(BaseModel):
    """What to cut and by which criterion."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    heads: float = Field(default=0.0, ge=0, lt=1, description="share of query heads to remove from every key/value group")
    ffn: float = Field(default=0.0, ge=0, lt=1, description="share of FFN neurons to remove")
    layers: int = Field(default=0, ge=0, description="how many layers to remove, those of least block influence first")
    experts: float = Field(default=0.0, ge=0, lt=1, description="share of experts to remove from every layer of a mixture")
    criterion: Criterion = Field(default="taylor", description="how importance is measured; that of experts by use and output, or random")
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
    if not (options.heads or options.ffn or options.layers or options.experts):
        raise UsageError("nothing to prune", "give --heads, --ffn, --layers or --experts")
    shape, device = family.shape(config), pick_device(context.device)
    keep = kept_heads(shape, options.heads, lambda n: family.accepts_heads(config, n))  # refuses before the calibration pass
    keep_experts = kept_experts(shape, options.experts, options.ffn)
    rows = context.calibration.rows(source, context.seed)
    model = load_model(source, device)
    with watched(model, family, shape) as usage:
        scores = measure(model, family, shape, _with_progress(rows), options.criterion, context.seed)
    heads = choose_heads(scores.heads, shape.num_key_value_heads, keep)
    neurons = choose_neurons(scores.neurons, options.ffn)
    layers = choose_layers(scores.layers, options.layers)
    at_random = context.seed if options.criterion == "random" else None
    experts = choose_experts(usage, shape.num_hidden_layers, keep_experts, at_random) if options.experts else []
    kept = Kept(heads, neurons, layers, experts)
    state = read_state(source)
    if options.compensate:
        compensate(model, family, shape, rows, kept)
        _take_refitted(state, model, family, layers)
    small, small_config = cut(state, config, family, shape, kept)
    removed = [sorted(set(range(shape.num_attention_heads)) - set(kept)) for kept in heads]
    provenance = {
        "kind": "checkpoint", "step": "prune", "source": content_hash(source), "options": options.model_dump(),
        "calibration": vars(context.calibration), "removed_heads": removed, "kept_layers": layers,
        "kept_experts": kept.experts,
    }  # fmt: skip
    with torch.no_grad(), masked(model, family, shape, kept):
        probes = [probe.to(device) for probe in probes_from(rows, shape)]
        expected = [model(input_ids=probe, use_cache=False).logits.cpu() for probe in probes]
        entries = expert_details(usage, run_watched(model, family, shape, rows), kept.experts)
    difference: list[float] = []
    write_checkpoint(out, small, small_config, source, provenance, verify=lambda made: difference.append(prove(made, probes, expected)))
    notes = _notes(options, family, config, small_config, difference[0])
    details = {
        "head_importance": scores.heads.tolist(), "pruned_heads": removed, "layer_influence": scores.layers.tolist(),
        "kept_layers": layers, "max_relative_difference": difference[0],
    }  # fmt: skip
    if entries:
        notes.insert(1, expert_note(entries))
        details["experts"] = entries
    return StepResult(notes, details)


def _with_progress(rows: list[Tensor]) -> Iterable[Tensor]:
    with progress("scoring heads and neurons", len(rows)) as bar:
        for row in rows:
            yield row
            bar.advance()


def _take_refitted(state: dict[str, Tensor], model: Any, family: Family, layers: list[int]) -> None:
    """Move the refitted projections into the state dict, in its dtype; the model gets what that rounding left of them."""
    for i in layers:
        layer = family.layer_list(model)[i]
        for name in family.outputs(layer):
            key = family.key(i, name)
            weight = weight_of(layer.get_submodule(name))
            state[key] = weight.cpu().to(state[key].dtype)
            weight.copy_(state[key])


def _notes(options: PruneOptions, family: Family, config: dict[str, Any], small: dict[str, Any], difference: float) -> list[str]:
    old, new = family.shape(config), family_of(small).shape(small)
    before, after = family.parameters(config), family_of(small).parameters(small)
    notes = [
        f"query heads {old.num_attention_heads} -> {new.num_attention_heads}, FFN {old.intermediate_size} -> {new.intermediate_size}, "
        f"layers {old.num_hidden_layers} -> {new.num_hidden_layers}: {before:,} -> {after:,} parameters",
        f"logits equal those of the masked original to {difference:.1e} (relative)",
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
