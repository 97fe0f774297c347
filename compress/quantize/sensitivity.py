"""Find the matrices that lose most at few bits, and keep the worst at more bits within a budget.

One pass over the layers measures every matrix: it is rounded to its own bits and to more bits, and
each is judged by the error of its outputs on the calibration inputs of the unquantized model,
tr(D H D^T) / tr(W H W^T). The matrices that save the most error per byte get more bits, until the
budget is spent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor, nn

from ...checkpoints.layouts import Scheme
from ...checkpoints.streaming import ROWS, Streamed
from ...checkpoints.tensors import rows_of
from ...console import progress
from ...models import Layer, weight_of
from ..calibration.activation_buffer import ActivationBuffer, Activations
from ..calibration.hessian import Hessian, energy, spread
from ..calibration.layer_inputs import LayerCall, advance, first_inputs
from .gptq import rtn
from .rules import stored_bytes

__all__ = ["MatrixSensitivity", "measure_sensitivity", "select_matrices", "sensitivity_report"]


@dataclass(frozen=True)
class MatrixSensitivity:
    """The error of one matrix at its own bits and at more bits.

    Attributes:
        bits: bits that the options assign to it.
        error: relative squared error of its outputs at these bits, rounded to nearest.
        kept_error: the same at more bits.
        extra_bytes: bytes that it takes more at more bits.
    """

    bits: int
    error: float
    kept_error: float
    extra_bytes: int

    @property
    def gain(self) -> float:
        """Error saved per byte."""
        return (self.error - self.kept_error) / self.extra_bytes


def measure_sensitivity(
    model: Streamed,
    rows: list[Tensor],
    buffer: ActivationBuffer,
    schemes: Mapping[str, Scheme],
    keep_bits: int,
    tokens: int | None = None,
    bf16: bool = False,
) -> dict[str, MatrixSensitivity]:
    """Measure every matrix that is assigned fewer than `keep_bits`, by full module name.

    Args:
        model: the model in floating point; one layer is in memory at a time.
        rows: calibration rows, int64 [2, seq].
        buffer: storage for the hidden states.
        schemes: schemes of the matrices, head included. An untied embedding and the routed experts
            are not measured.
        keep_bits: the higher number of bits.
        tokens: tokens per input channel that a Hessian is computed from; None: all.
        bf16: whether layers and Hessians are computed in bfloat16.
    """
    architecture = model.architecture
    found = dict[str, MatrixSensitivity]()
    states, calls = first_inputs(model, rows, buffer, bf16)
    with progress("measuring sensitivity", len(model.layers)) as bar, torch.no_grad():
        for layer, call in zip(architecture.layers, calls, strict=True):
            with model.held(layer.index) as module:
                hessians = _hessians(layer, module, call, states, tokens, bf16)
                for name, hessian in hessians.items():
                    scheme = schemes.get(layer.full(name))
                    if scheme and scheme.bits < keep_bits:
                        weight = weight_of(module.get_submodule(name))
                        sample = [weight[spread(len(weight))]]
                        found[layer.full(name)] = _sensitivity(
                            sample, weight.shape, hessian, scheme, keep_bits
                        )
            bar.advance(note=f"layer {layer.index + 1}/{len(model.layers)}")
        own = f"{architecture.head}.weight" in model.specs
        head = architecture.head if own else architecture.embedding
        if (scheme := schemes.get(head)) and scheme.bits < keep_bits:
            blocks = (
                part
                for rows in rows_of(model.path, f"{head}.weight", ROWS)
                for part in rows.split(1024)
            )
            shape = (model.architecture.vocab_size, model.architecture.hidden_size)
            hessian = _head_hessian(model, states)
            found[head] = _sensitivity(blocks, shape, hessian, scheme, keep_bits)
    return found


def _hessians(
    layer: Layer,
    module: nn.Module,
    call: LayerCall,
    states: Activations,
    tokens: int | None,
    bf16: bool,
) -> dict[str, Tensor]:
    """Replace the states by the outputs of a layer, and return the Hessian of each linear layer."""
    hessians = dict[str, Hessian]()
    hooks = []
    groups = layer.input_groups
    for group in groups:
        first = module.get_submodule(group[0])
        width = weight_of(first).shape[1]
        share = tokens * width / (len(states) * states.shape[1]) if tokens else 1.0
        hessian = hessians[group[0]] = Hessian(width, states.device, min(1.0, share), bf16)
        hooks.append(first.register_forward_pre_hook(_add_inputs(hessian)))
    try:
        advance(module, states, call)
    finally:
        for hook in hooks:
            hook.remove()
    matrices = {group: hessians[group[0]].matrix() for group in groups}
    return {name: matrix for group, matrix in matrices.items() for name in group}


def _add_inputs(hessian: Hessian) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    """A forward pre-hook that adds the inputs of a module to a Hessian."""
    return lambda _module, args: hessian.add(args[0])


def _sensitivity(
    blocks: Iterable[Tensor],
    shape: Sequence[int],
    hessian: Tensor,
    scheme: Scheme,
    keep_bits: int,
) -> MatrixSensitivity:
    """Measure one matrix [out, in] of this shape, by blocks of rows, which may be a sample."""
    total = error = kept = 0.0
    better = replace(scheme, bits=keep_bits)
    for block in blocks:
        weight = block.to(hessian.device, torch.float32)
        total += energy(weight, hessian)
        few, more = (rtn(weight, s).dequantize() - weight for s in (scheme, better))
        error += energy(few, hessian)
        kept += energy(more, hessian)
    total = max(total, 1e-30)
    outputs, width = shape
    extra = stored_bytes((outputs, width), better) - stored_bytes((outputs, width), scheme)
    return MatrixSensitivity(scheme.bits, error / total, kept / total, extra)


def _head_hessian(model: Streamed, states: Activations) -> Tensor:
    """The Hessian of the head's inputs, from the outputs of the last layer."""
    head = model.skeleton.get_submodule(model.architecture.head)
    hessian = Hessian(states.shape[2], states.device)
    hook = head.register_forward_pre_hook(_add_inputs(hessian))
    try:
        for row in range(len(states)):
            with closing(model.logit_parts(states[row])) as parts:
                next(parts)  # the first part of the vocabulary has the same inputs as the others
    finally:
        hook.remove()
    return hessian.matrix()


def select_matrices(found: Mapping[str, MatrixSensitivity], budget: int) -> list[str]:
    """Select the matrices that save the most error per byte, within a budget of bytes."""
    kept = list[str]()
    left = budget
    for name, matrix in _by_gain(found).items():
        if matrix.extra_bytes <= left and matrix.gain > 0:
            kept.append(name)
            left -= matrix.extra_bytes
    return kept


def sensitivity_report(
    found: Mapping[str, MatrixSensitivity], kept: list[str]
) -> dict[str, dict[str, float]]:
    """The measurements for the ledger, largest gain first, and whether each matrix was kept."""
    return {
        name: {**asdict(matrix), "kept": float(name in kept)}
        for name, matrix in _by_gain(found).items()
    }


def _by_gain(found: Mapping[str, MatrixSensitivity]) -> dict[str, MatrixSensitivity]:
    """The measurements, largest gain first."""
    return dict(sorted(found.items(), key=lambda item: -item[1].gain))
