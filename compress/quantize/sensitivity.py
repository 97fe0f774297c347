"""Which matrices suffer most from few bits, and which of them are worth more of them under a budget of bytes.

One pass over the layers measures: each matrix is rounded at its bits and at more, and both are judged by what they change in
its outputs on the calibration inputs of the unquantized model (tr(D H D^T) relative to tr(W H W^T), as the report has it).
What saves the most error a byte is kept at more bits, until the budget is spent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor, nn

from ...checkpoints.files import rows_of
from ...checkpoints.layouts import Scheme
from ...checkpoints.streaming import ROWS, Streamed
from ...console import progress
from ...models import Layer, weight_of
from ..calibration.activation_buffer import ActivationBuffer, Activations
from ..calibration.hessian import Hessian, energy
from ..calibration.layer_inputs import LayerCall, advance, first_inputs
from .gptq import rtn
from .rules import stored_bytes

__all__ = ["MatrixSensitivity", "measure_sensitivity", "table", "select_matrices"]


@dataclass(frozen=True)
class MatrixSensitivity:
    """What rounding one matrix does.

    Attributes:
        bits: those it was to have.
        error: relative squared error of its outputs at these bits, rounded to nearest.
        kept_error: the same at more bits.
        extra_bytes: what these take more.
    """

    bits: int
    error: float
    kept_error: float
    extra_bytes: int

    @property
    def gain(self) -> float:
        """Error that a byte saves."""
        return (self.error - self.kept_error) / self.extra_bytes


def measure_sensitivity(
    model: Streamed,
    rows: list[Tensor],
    buffer: ActivationBuffer,
    schemes: Mapping[str, Scheme],
    keep_bits: int,
) -> dict[str, MatrixSensitivity]:
    """What rounding does to every matrix that is to have fewer than `keep_bits`, by full module name.

    Args:
        model: the model in floating point, of which one layer is in memory at a time.
        rows: calibration rows, int64 [2, seq].
        buffer: for the hidden states.
        schemes: of the matrices, head included; those of an untied embedding and of experts are passed over.
        keep_bits: what they are compared with.
    """
    architecture, found = model.architecture, dict[str, MatrixSensitivity]()
    states, calls = first_inputs(model, rows, buffer)
    with progress("measuring sensitivity", len(model.layers)) as bar, torch.no_grad():
        for layer, call in zip(architecture.layers, calls, strict=True):
            with model.held(layer.index) as module:
                hessians = _hessians(layer, module, call, states)
                for name, hessian in hessians.items():
                    scheme = schemes.get(layer.full(name))
                    if scheme and scheme.bits < keep_bits:
                        weight = weight_of(module.get_submodule(name))
                        found[layer.full(name)] = _finding([weight], hessian, scheme, keep_bits)
            bar.advance(note=f"layer {layer.index + 1}/{len(model.layers)}")
        own = f"{architecture.head}.weight" in model.specs
        head = architecture.head if own else architecture.embedding
        if (scheme := schemes.get(head)) and scheme.bits < keep_bits:
            blocks = (
                part
                for rows in rows_of(model.path, f"{head}.weight", ROWS)
                for part in rows.split(1024)
            )
            found[head] = _finding(blocks, _head_hessian(model, states), scheme, keep_bits)
    return found


def _hessians(
    layer: Layer, module: nn.Module, call: LayerCall, states: Activations
) -> dict[str, Tensor]:
    """Run a layer on the states, which become its outputs; the sum of outer products of what entered each linear in it."""
    hessians, hooks = dict[str, Hessian](), []
    groups = layer.input_groups
    for group in groups:
        first = module.get_submodule(group[0])
        hessian = hessians[group[0]] = Hessian(weight_of(first).shape[1], states.device)
        hooks.append(first.register_forward_pre_hook(_adding_to(hessian)))
    try:
        advance(module, states, call)
    finally:
        for hook in hooks:
            hook.remove()
    sums = {group: hessians[group[0]].matrix() for group in groups}
    return {name: hessian for group, hessian in sums.items() for name in group}


def _adding_to(hessian: Hessian) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    return lambda _module, args: hessian.add(args[0])


def _finding(
    blocks: Iterable[Tensor], hessian: Tensor, scheme: Scheme, keep_bits: int
) -> MatrixSensitivity:
    """From the rows of a matrix, block by block."""
    total = error = kept = 0.0
    outputs = width = 0
    better = replace(scheme, bits=keep_bits)
    for block in blocks:
        weight = block.to(hessian.device, torch.float32)
        total += energy(weight, hessian)
        few, more = (rtn(weight, s).dequantize() - weight for s in (scheme, better))
        error += energy(few, hessian)
        kept += energy(more, hessian)
        outputs, width = outputs + len(weight), weight.shape[1]
    total = max(total, 1e-30)
    extra = stored_bytes((outputs, width), better) - stored_bytes((outputs, width), scheme)
    return MatrixSensitivity(scheme.bits, error / total, kept / total, extra)


def _head_hessian(model: Streamed, states: Activations) -> Tensor:
    """The sum of outer products of what enters the head, from what the last layer put out."""
    head = model.skeleton.get_submodule(model.architecture.head)
    hessian = Hessian(states.shape[2], states.device)
    hook = head.register_forward_pre_hook(_adding_to(hessian))
    try:
        for row in range(len(states)):
            with closing(model.logit_parts(states[row])) as parts:
                next(parts)  # the first part of the vocabulary is enough to see what enters
    finally:
        hook.remove()
    return hessian.matrix()


def select_matrices(found: Mapping[str, MatrixSensitivity], budget: int) -> list[str]:
    """The matrices that save the most error a byte, as many as the budget of bytes allows."""
    kept, left = list[str](), budget
    for name, finding in sorted(found.items(), key=lambda item: -item[1].gain):
        if finding.extra_bytes <= left and finding.gain > 0:
            kept.append(name)
            left -= finding.extra_bytes
    return kept


def table(found: Mapping[str, MatrixSensitivity], kept: list[str]) -> dict[str, dict[str, float]]:
    """The findings for the report, worst first, and whether each matrix was kept."""
    order = sorted(found.items(), key=lambda item: -item[1].gain)
    return {name: {**asdict(finding), "kept": float(name in kept)} for name, finding in order}
