"""2:4 sparsity of a checkpoint: one decoder layer after the other, each calibrated on what the sparse layers before it put out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...checkpoints.files import read_architecture, stored_dtype, write_checkpoint
from ...checkpoints.loading import load_model, pick_device, tied_names
from ...checkpoints.streaming import InMemory
from ...console import progress
from ...errors import Refused
from ...models import Architecture, weight_of
from ...steps.context import StepContext, StepResult
from ..calibration.hessian import output_error
from ..calibration.layer_inputs import advance, first_inputs, input_hessian
from .options import SparsityMethod
from .two_four import GROUP, magnitude, sparsegpt

__all__ = ["sparsify"]

Prove = Callable[[Path, Tensor, Tensor], float]
"""Compares what a written checkpoint computes on ids [1, seq] with logits [1, seq, vocab]: the relative difference, or an error."""


def sparsify(
    method: SparsityMethod,
    source: Path,
    out: Path,
    context: StepContext,
    provenance: Mapping[str, Any],
    prove: Prove,
) -> StepResult:
    """Write `source` with every linear layer of its decoder layers 2:4 sparse to `out`.

    Args:
        method: how weights are chosen.
        source: a floating-point checkpoint.
        out: the directory to make.
        context: calibration data and device.
        provenance: what `edgewright.json` shall say beside the sparsity.
        prove: the last check of the result, before it gets its name.

    Raises:
        Refused: a layer whose inputs four does not divide.
    """
    architecture = read_architecture(source)
    dtype = stored_dtype(architecture.config)
    if bad := [
        f"{linear.name} ({linear.in_features} inputs)"
        for linear in architecture.linear_counts()
        if linear.in_features % GROUP
    ]:
        raise Refused(
            f"2:4 sparsity needs a multiple of {GROUP} inputs: {', '.join(bad)}",
            "prune to a width that divides",
        )
    rows = context.calibration.rows(source, context.seed)
    model = load_model(source, pick_device(context.device))
    errors, notes = _all_layers(method, model, architecture, rows, dtype)
    tied = tied_names(model)
    state = {k: v.cpu().to(dtype) for k, v in model.state_dict().items() if k not in tied}
    probe = rows[0][:1].to(next(model.parameters()).device)
    with torch.no_grad():
        expected = model(input_ids=probe, use_cache=False).logits.cpu()
    told = {**provenance, "calibration": context.calibration.used(rows)}
    told |= {"sparsity": "2:4", "sparsity_method": method}
    difference: list[float] = []
    write_checkpoint(
        out,
        state,
        dict(architecture.config),
        source,
        told,
        verify=lambda made: difference.append(prove(made, probe, expected)),
    )
    worst = max(errors, key=lambda name: errors[name]["error"])
    mean, plain = (
        sum(e[kind] for e in errors.values()) / len(errors) for kind in ("error", "magnitude_error")
    )
    notes = [
        f"{len(errors)} linear layers 2:4 sparse along their inputs ({method}): half of their weights are zero, which only an engine with "
        "sparse kernels turns into speed; the files are no smaller",
        f"mean relative output error {mean:.2e} (magnitude {plain:.2e}); worst {worst} at {errors[worst]['error']:.2e}",
        f"reloaded, it computes the same logits to {difference[0]:.1e} (relative)",
        *notes,
        *context.calibration.shortfall(rows),
    ]
    return StepResult(notes, {"sparsity": errors})


def _all_layers(
    method: SparsityMethod,
    model: Any,
    architecture: Architecture,
    rows: list[Tensor],
    dtype: torch.dtype,
) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Make the model sparse in place; the output errors of every linear layer, and notes on those that were hard."""
    held = InMemory(model, architecture)
    states, calls = first_inputs(held, rows)
    groups = sum(len(layer.input_groups) for layer in architecture.layers)
    errors: dict[str, dict[str, float]] = {}
    notes: list[str] = []
    with (
        torch.no_grad(),
        progress(f"making 2:4 sparse ({method})", groups) as bar,
    ):
        for layer, module, call in zip(architecture.layers, held.layers, calls, strict=True):
            for group in layer.input_groups:
                hessian = input_hessian(module, module.get_submodule(group[0]), states, call)
                for name in group:
                    full, weight = layer.full(name), weight_of(module.get_submodule(name))
                    errors[full], damped = _one_linear(method, weight, hessian, dtype)
                    if not damped:
                        notes.append(
                            f"{full}: the Hessian could not be factorised; pruned by magnitude"
                        )
                bar.advance(note=f"layer {layer.index + 1}/{len(held.layers)}")
            advance(module, states, call)
    return errors, notes


def _one_linear(
    method: SparsityMethod, weight: Tensor, hessian: Tensor, dtype: torch.dtype
) -> tuple[dict[str, float], bool]:
    """Replace a weight, rounded as it will be stored; its output errors, and whether the method could be applied."""
    plain = magnitude(weight)
    sparse, damp = sparsegpt(weight, hessian) if method == "sparsegpt" else (plain, 0.0)
    stored = sparse.to(dtype).to(weight)
    errors = {
        "error": output_error(weight, stored, hessian),
        "magnitude_error": output_error(weight, plain, hessian),
    }
    weight.copy_(stored)
    return errors, damp is not None
