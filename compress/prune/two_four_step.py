"""2:4 sparsity of a checkpoint, layer by layer. Each layer sees the outputs of sparse layers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...checkpoints.config import read_architecture
from ...checkpoints.loading import load_model, pick_device, tied_names
from ...checkpoints.streaming import InMemory
from ...checkpoints.tensors import stored_dtype
from ...checkpoints.writer import write_checkpoint
from ...console import progress
from ...errors import Refused
from ...models import Architecture, weight_of
from ...steps.context import StepContext, StepResult
from ..calibration.hessian import output_error
from ..calibration.layer_inputs import advance, first_inputs, input_hessian
from .options import SparsityMethod
from .two_four import GROUP, magnitude, sparsegpt
from .verify import logits_of, verify_with_stock

__all__ = ["sparsify"]


def sparsify(
    method: SparsityMethod,
    source: Path,
    out: Path,
    context: StepContext,
    provenance: Mapping[str, Any],
) -> StepResult:
    """Write a copy of `source` in which all linear layers of decoder layers are 2:4 sparse.

    Args:
        method: how weights are chosen.
        source: a floating-point checkpoint.
        out: the directory to make.
        context: calibration data and device.
        provenance: for `edgewright.json`; the sparsity is added.

    Raises:
        Refused: the inputs of a linear layer cannot be divided into groups of four.
        EdgewrightError: the reloaded result computes something else.
    """
    architecture = read_architecture(source)
    dtype = stored_dtype(architecture.config)
    _check_input_widths(architecture)
    rows = context.calibration.rows(source, context.seed)
    model = load_model(source, pick_device(context.device))
    errors, notes = _all_layers(method, model, architecture, rows, dtype)
    state = _stored_state(model, dtype)
    probe = rows[0][:1].to(next(model.parameters()).device)
    expected = logits_of(model, probe).cpu()
    provenance = {
        **provenance,
        "calibration": context.calibration.used(rows),
        "sparsity": "2:4",
        "sparsity_method": method,
    }
    difference: list[float] = []
    write_checkpoint(
        out,
        state,
        dict(architecture.config),
        source,
        provenance,
        verify=lambda made: difference.append(verify_with_stock(made, probe, expected)),
    )
    notes = [*_summary(method, errors, difference[0]), *notes]
    notes += context.calibration.notes(rows)
    return StepResult(notes, {"sparsity": errors})


def _check_input_widths(architecture: Architecture) -> None:
    """Refuse a model with a linear layer whose inputs cannot be divided into groups of four."""
    if bad := [
        f"{linear.name} ({linear.in_features} inputs)"
        for linear in architecture.linear_counts()
        if linear.in_features % GROUP
    ]:
        raise Refused(
            f"2:4 sparsity needs a multiple of {GROUP} inputs: {', '.join(bad)}",
            "prune to a width that divides",
        )


def _stored_state(model: Any, dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors to write, in the stored dtype and on the CPU; tied ones only once."""
    tied = tied_names(model)
    return {k: v.cpu().to(dtype) for k, v in model.state_dict().items() if k not in tied}


def _summary(
    method: SparsityMethod, errors: dict[str, dict[str, float]], difference: float
) -> list[str]:
    """The notes on all linear layers together, and on the reloaded result.

    Args:
        method: how weights were chosen.
        errors: output errors of every linear layer by full name.
        difference: of the logits of the reloaded result, relative.
    """
    worst = max(errors, key=lambda name: errors[name]["error"])
    mean, plain = (
        sum(e[kind] for e in errors.values()) / len(errors) for kind in ("error", "magnitude_error")
    )
    return [
        f"{len(errors)} linear layers 2:4 sparse along their inputs ({method}): half of their "
        "weights are zero; only an engine with sparse kernels is faster, and files are no smaller",
        f"mean relative output error {mean:.2e} (magnitude {plain:.2e}); "
        f"worst {worst} at {errors[worst]['error']:.2e}",
        f"reloaded, it computes the same logits to {difference:.1e} (relative)",
    ]


def _all_layers(
    method: SparsityMethod,
    model: Any,
    architecture: Architecture,
    rows: list[Tensor],
    dtype: torch.dtype,
) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Make the model sparse in place.

    Returns:
        The output errors of every linear layer by full name, and notes on layers whose Hessian
        could not be used.
    """
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
    """Replace a weight in place, rounded to the stored dtype.

    Returns:
        Its relative output errors, and whether the method could be applied.
    """
    plain = magnitude(weight)
    sparse, damp = sparsegpt(weight, hessian) if method == "sparsegpt" else (plain, 0.0)
    stored = sparse.to(dtype).to(weight)
    errors = {
        "error": output_error(weight, stored, hessian),
        "magnitude_error": output_error(weight, plain, hessian),
    }
    weight.copy_(stored)
    return errors, damp is not None
