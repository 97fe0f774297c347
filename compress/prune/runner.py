"""The prune step: score, choose, cut, write, and prove that the result is the masked original."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from ...checkpoint import content_hash, read_family, read_provenance, read_state, scratch_directory, write_checkpoint
from ...console import progress
from ...errors import EdgewrightError, Refused, UsageError
from ...layouts import is_gptq
from ...loading import load_model, pick_device
from ...models import Family, family_of, weight_of
from ...steps import StepContext, StepResult
from .choose import choose_heads, choose_layers, choose_neurons, kept_heads
from .compensate import compensate
from .cut import Kept, cut
from .importance import Criterion, masked, measure
from .sparsify import sparsify
from .sparsity import SparsityMethod

__all__ = ["PruneOptions", "prune"]

TOLERANCE = 1e-4
"""Largest allowed difference between pruned and masked logits, relative to the largest logit."""


class PruneOptions(BaseModel):
    """What to cut and by which criterion."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    heads: float = Field(default=0.0, ge=0, lt=1, description="share of query heads to remove from every key/value group")
    ffn: float = Field(default=0.0, ge=0, lt=1, description="share of FFN neurons to remove")
    layers: int = Field(default=0, ge=0, description="how many layers to remove, those of least block influence first")
    criterion: Criterion = Field(default="taylor", description="how importance is measured")
    compensate: bool = Field(default=True, description="refit the output projections by least squares to make up for what goes")
    sparsity: Literal["2:4"] | None = Field(
        default=None, description="then zero two of every four inputs in what stays; see docs/sparsity.md"
    )
    sparsity_method: SparsityMethod = Field(default="sparsegpt", description="how those two are chosen")

    @property
    def cuts(self) -> bool:
        """Whether something is to be removed from the shapes."""
        return bool(self.heads or self.ffn or self.layers)


def prune(options: PruneOptions, source: Path, out: Path, context: StepContext) -> StepResult:
    """Write a physically smaller copy of `source`, a 2:4 sparse one, or one that is both, to `out`.

    Raises:
        UsageError: nothing to prune was asked for, or the input is broken.
        Refused: the model cannot be cut this way, or is quantized already.
        EdgewrightError: the result does not compute what the masked original computes (nothing is kept then).
    """
    if is_gptq(read_family(source)[1]):
        raise Refused(f"{source}: quantized already", "prune first, then quantize")
    if not options.cuts and not options.sparsity:
        raise UsageError("nothing to prune", "give --heads, --ffn, --layers or --sparsity")
    if not options.sparsity:
        result = _cut(options, source, out, context)
        if read_provenance(source).get("sparsity"):
            result.notes.append("the source is 2:4 sparse and a cut may break the pattern: ask for sparsity again to be sure of it")
        return result
    with scratch_directory(out.with_name(f".{out.name}.dense")) as dense:
        result = _cut(options, source, dense, context) if options.cuts else StepResult()
        provenance = {
            "kind": "checkpoint", "step": "prune", "source": content_hash(source), "options": options.model_dump(),
            "calibration": vars(context.calibration), **(read_provenance(dense) if options.cuts else {}),
        }  # fmt: skip
        sparse = sparsify(options.sparsity_method, dense if options.cuts else source, out, context, provenance, _prove)
    return StepResult(result.notes + sparse.notes, result.details | sparse.details)


def _cut(options: PruneOptions, source: Path, out: Path, context: StepContext) -> StepResult:
    """Remove heads, neurons and layers."""
    family, config = read_family(source)
    shape, device = family.shape(config), pick_device(context.device)
    keep = kept_heads(shape, options.heads, lambda n: family.accepts_heads(config, n))  # refuses before the calibration pass
    rows = context.calibration.rows(source, context.seed)
    model = load_model(source, device)
    scores = measure(model, family, shape, _with_progress(rows), options.criterion, context.seed)
    heads = choose_heads(scores.heads, shape.num_key_value_heads, keep)
    neurons = choose_neurons(scores.neurons, options.ffn)
    layers = choose_layers(scores.layers, options.layers)
    kept = Kept(heads, neurons, layers)
    state = read_state(source)
    if options.compensate:
        compensate(model, family, shape, rows, kept)
        _take_refitted(state, model, family, layers)
    small, small_config = cut(state, config, family, shape, kept)
    removed = [sorted(set(range(shape.num_attention_heads)) - set(kept)) for kept in heads]
    provenance = {
        "kind": "checkpoint", "step": "prune", "source": content_hash(source), "options": options.model_dump(),
        "calibration": vars(context.calibration), "removed_heads": removed, "kept_layers": layers,
    }  # fmt: skip
    with torch.no_grad(), masked(model, family, shape, kept):
        probe = rows[0][:1].to(device)
        expected = model(input_ids=probe, use_cache=False).logits.cpu()
    difference: list[float] = []
    write_checkpoint(out, small, small_config, source, provenance, verify=lambda made: difference.append(_prove(made, probe, expected)))
    notes = _notes(options, family, config, small_config, difference[0])
    details = {
        "head_importance": scores.heads.tolist(), "pruned_heads": removed, "layer_influence": scores.layers.tolist(),
        "kept_layers": layers, "max_relative_difference": difference[0],
    }  # fmt: skip
    return StepResult(notes, details)


def _with_progress(rows: list[Tensor]) -> Iterable[Tensor]:
    with progress("scoring heads and neurons", len(rows)) as bar:
        for row in rows:
            yield row
            bar.advance()


def _take_refitted(state: dict[str, Tensor], model: Any, family: Family, layers: list[int]) -> None:
    """Move the refitted projections into the state dict, in its dtype; the model gets what that rounding left of them."""
    for i in layers:
        for name in (family.o, family.down):
            key = family.key(i, name)
            weight = weight_of(family.layer_list(model)[i].get_submodule(name))
            state[key] = weight.cpu().to(state[key].dtype)
            weight.copy_(state[key])


def _prove(out: Path, probe: Tensor, expected: Tensor) -> float:
    """Reload with stock transformers and compare logits with the masked original."""
    from transformers import AutoModelForCausalLM  # late: slow to import

    reloaded: Any = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    reloaded.to(probe.device).eval()
    with torch.no_grad():
        got = reloaded(input_ids=probe, use_cache=False).logits.cpu()
    difference = float((got - expected).abs().max() / expected.abs().max().clamp_min(1e-6))
    if not difference <= TOLERANCE:
        raise EdgewrightError(
            f"{out}: the pruned model differs from the masked original by {difference:.2e} (limit {TOLERANCE:.0e})",
            "this is a bug in edgewright: please report it with the model's config.json",
        )
    return difference


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
