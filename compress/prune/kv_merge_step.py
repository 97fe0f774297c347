"""Averaging the key/value heads of a checkpoint; the mathematics is in `merge`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ...checkpoints.files import read_family, read_state, write_checkpoint
from ...checkpoints.loading import load_model, pick_device
from ...console import progress
from ...steps.context import StepContext, StepResult
from .kv_merge import align, attention_of, input_moments, merged, repeat_into, store
from .options import PruneOptions
from .sizes import merged_config
from .verify import logits_of, probe_of, prove

__all__ = ["merge_key_values"]


def merge_key_values(
    options: PruneOptions, source: Path, out: Path, context: StepContext, provenance: dict[str, Any]
) -> StepResult:
    """Write a copy of `source` whose key/value heads are averaged into `options.merge_kv`.

    Raises:
        Refused: they do not divide into so many.
        EdgewrightError: the result does not compute what the original computes with its heads so replaced.
    """
    assert options.merge_kv is not None
    family, config = read_family(source)
    shape, device, groups = family.shape(config), pick_device(context.device), options.merge_kv
    new_config = merged_config(family, config, groups)
    rows = context.calibration.rows(source, context.seed)
    model, state = load_model(source, device), read_state(source)
    with (
        torch.no_grad(),
        input_moments(model, family) as moments,
        progress("looking at key/value heads", len(rows)) as bar,
    ):
        for row in rows if options.merge == "aligned" else []:  # a plain mean needs no data
            model(input_ids=row[:1].to(device), use_cache=False)
            bar.advance()
    for index, moment in enumerate(moments):
        attention = attention_of(state, family, shape, index)
        if options.merge == "aligned":
            width = attention.k.shape[-1]
            attention = align(
                attention, moment[:width, :width].cpu(), groups, keys=family.k_norm is None
            )
        small = merged(attention, groups)
        store(state, family, index, small)
        repeat_into(model, state, family, shape, index)
    probe = probe_of(rows, shape).to(device)
    expected = logits_of(model, probe)
    difference: list[float] = []
    write_checkpoint(
        out,
        state,
        new_config,
        source,
        provenance,
        verify=lambda made: difference.append(prove(made, probe, expected)),
    )
    how = (
        "their mean"
        if options.merge == "mean"
        else "their mean after turning them towards each other"
    )
    saved = 1 - groups / shape.num_key_value_heads
    notes = [
        f"key/value heads {shape.num_key_value_heads} -> {groups} ({how}): the KV cache shrinks by {saved:.0%}",
        f"logits equal those of the original with its heads so replaced to {difference[0]:.1e} (relative); distill to recover",
    ]
    if options.merge == "aligned" and family.k_norm is not None:
        notes.append("keys were averaged as they are: a norm on them does not commute with turning")
    return StepResult(notes, {"merged": {"max_relative_difference": difference[0]}})
