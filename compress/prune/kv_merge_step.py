"""Averages the key/value heads of a checkpoint; the arithmetic is in `kv_merge`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...checkpoints.config import read_architecture
from ...checkpoints.loading import load_model, pick_device
from ...checkpoints.tensors import read_state
from ...checkpoints.writer import write_checkpoint
from ...console import progress
from ...models import Architecture, decoder_layers
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
    fewer = merged_kv(architecture, options.merge_kv)
    rows = context.calibration.rows(source, context.seed)
    provenance["calibration"] = context.calibration.used(rows)
    model = load_model(source, device)
    state = read_state(source)
    moments = _measure_inputs(options, model, architecture, rows)
    _merge_layers(options, model, architecture, state, moments)
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
    notes = _notes(options, architecture, difference[0])
    notes += context.calibration.notes(rows)
    return StepResult(notes, {"merged": {"max_relative_difference": difference[0]}})


def _measure_inputs(
    options: PruneOptions, model: Any, architecture: Architecture, rows: list[Tensor]
) -> list[Tensor]:
    """Second moments of the inputs of every layer's attention, for `align`; see `input_moments`.

    Args:
        options: of the prune step.
        model: the loaded checkpoint.
        architecture: of the model.
        rows: calibration rows int64 [2, seq]; a plain mean does not run them.

    Returns:
        For each layer a tensor [width + 1, width + 1], zero for a plain mean.
    """
    device = next(model.parameters()).device
    with (
        torch.no_grad(),
        input_moments(model, architecture) as moments,
        progress("measuring inputs of key/value heads", len(rows)) as bar,
    ):
        for row in rows if options.merge == "aligned" else []:  # a plain mean needs no data
            model(input_ids=row[:1].to(device), use_cache=False)
            bar.advance()
    return moments


def _merge_layers(
    options: PruneOptions,
    model: Any,
    architecture: Architecture,
    state: dict[str, Tensor],
    moments: list[Tensor],
) -> None:
    """Average the key/value heads of every layer, in `state` and in the loaded model.

    Args:
        options: of the prune step.
        model: the loaded checkpoint; it keeps its number of heads, each replaced by the mean.
        architecture: of the original model.
        state: tensors of the checkpoint; those of the merged heads become smaller.
        moments: of the inputs of every layer's attention, from `_measure_inputs`.
    """
    assert options.merge_kv is not None
    groups = options.merge_kv
    modules = decoder_layers(model, architecture)
    for layer, module, moment in zip(architecture.layers, modules, moments, strict=True):
        projections = projections_of(state, layer)
        if options.merge == "aligned":
            width = projections.k.shape[-1]
            rotary = layer.attention.rotary
            pairs = rotary.pairs if rotary and layer.attention.k_norm is None else None
            projections = align(projections, moment[:width, :width].cpu(), groups, pairs)
        store(state, layer, average_heads(projections, groups))
        repeat_into(module, state, layer, groups)


def _notes(options: PruneOptions, architecture: Architecture, difference: float) -> list[str]:
    """The notes for the user on a merge whose logits differ by `difference` (relative)."""
    assert options.merge_kv is not None
    groups = options.merge_kv
    kv_heads = architecture.attention_sizes.kv_heads
    how = (
        "their mean"
        if options.merge == "mean"
        else "their mean after rotating them towards each other"
    )
    saved = 1 - groups / kv_heads
    notes = [
        f"key/value heads {kv_heads} -> {groups} ({how}): the KV cache shrinks by {saved:.0%}",
        "logits equal those of the original with its heads replaced by their mean to "
        f"{difference:.1e} (relative); distill to recover",
    ]
    if options.merge == "aligned" and any(layer.attention.k_norm for layer in architecture.layers):
        notes.append(
            "keys were averaged as they are: a norm on keys does not commute with rotation"
        )
    return notes
