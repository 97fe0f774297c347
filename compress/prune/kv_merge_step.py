"""Averages the key/value heads of a checkpoint; the arithmetic is in `kv_merge`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ...checkpoints.files import read_architecture, read_state, write_checkpoint
from ...checkpoints.loading import load_model, pick_device
from ...console import progress
from ...models import decoder_layers
from ...steps.context import StepContext, StepResult
from .kv_merge import align, average_heads, input_moments, projections_of, repeat_into, store
from .options import PruneOptions
from .sizes import merged_kv
from .verify import logits_of, probe_of, verify_with_stock

__all__ = ["merge_key_values"]


def merge_key_values(
    options: PruneOptions, source: Path, out: Path, context: StepContext, provenance: dict[str, Any]
) -> StepResult:
    """Write a copy of `source` whose key/value heads are averaged into `options.merge_kv`.

    Args:
        options: of the prune step.
        source: the checkpoint.
        out: the directory to make.
        context: calibration data and device.
        provenance: for `edgewright.json`; the calibration data are added.

    Raises:
        Refused: the key/value heads cannot be divided into so many groups.
        EdgewrightError: the result differs from the original with its heads replaced by their mean.
    """
    assert options.merge_kv is not None
    architecture = read_architecture(source)
    device = pick_device(context.device)
    groups = options.merge_kv
    kv_heads = architecture.attention_sizes.kv_heads
    fewer = merged_kv(architecture, groups)
    rows = context.calibration.rows(source, context.seed)
    provenance["calibration"] = context.calibration.used(rows)
    model = load_model(source, device)
    state = read_state(source)
    with (
        torch.no_grad(),
        input_moments(model, architecture) as moments,
        progress("measuring inputs of key/value heads", len(rows)) as bar,
    ):
        for row in rows if options.merge == "aligned" else []:  # a plain mean needs no data
            model(input_ids=row[:1].to(device), use_cache=False)
            bar.advance()
    modules = decoder_layers(model, architecture)
    for layer, module, moment in zip(architecture.layers, modules, moments, strict=True):
        projections = projections_of(state, layer)
        if options.merge == "aligned":
            width = projections.k.shape[-1]
            turn_keys = layer.attention.k_norm is None
            projections = align(projections, moment[:width, :width].cpu(), groups, keys=turn_keys)
        store(state, layer, average_heads(projections, groups))
        repeat_into(module, state, layer)
    probe = probe_of(rows, architecture).to(device)
    expected = logits_of(model, probe)
    difference: list[float] = []
    write_checkpoint(
        out,
        state,
        dict(fewer.config),
        source,
        provenance,
        verify=lambda made: difference.append(verify_with_stock(made, probe, expected)),
    )
    how = (
        "their mean"
        if options.merge == "mean"
        else "their mean after rotating them towards each other"
    )
    saved = 1 - groups / kv_heads
    notes = [
        f"key/value heads {kv_heads} -> {groups} ({how}): the KV cache shrinks by {saved:.0%}",
        "logits equal those of the original with its heads replaced by their mean to "
        f"{difference[0]:.1e} (relative); distill to recover",
    ]
    if options.merge == "aligned" and any(layer.attention.k_norm for layer in architecture.layers):
        notes.append(
            "keys were averaged as they are: a norm on keys does not commute with rotation"
        )
    notes += context.calibration.shortfall(rows)
    return StepResult(notes, {"merged": {"max_relative_difference": difference[0]}})
