"""Closed-form repair after a cut: what is kept of o_proj and down_proj is refitted to put out what all of it did.

The idea of FLAP (An et al. 2023, section 3.3) and SliceGPT (Ashkboos et al. 2024), with the fit of a whole matrix: layer by
layer, ridge regression from the inputs that the cut model really has to the outputs that the uncut model had (and to what the
stream has lost before it), pulled towards the old weights rather than towards zero. It needs no gradient and no labels, and of
the model one layer at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...models import Architecture, Branch, Layer, weight_of
from ..calibration.activation_buffer import ActivationBuffer, Activations
from ..calibration.layer_inputs import LayerCall
from .cut import KeptParts

__all__ = ["Compensation", "Sums", "choose_damp", "refit"]


DAMPS = (math.inf, 1.0, 0.1, 0.01)
"""Ridges to choose from, as shares of the mean diagonal of the Gram matrix; infinity keeps the weights as they are."""

ROWS_AT_ONCE, TOKENS_AT_ONCE = 8, 4096


@dataclass
class Sums:
    """What the fit needs of calibration tokens, with y the kept inputs in the cut model and r what their outputs lack.

    `gram` is the sum of y y^T [k, k], `lacking` that of r y^T [out, k].
    """

    gram: Tensor
    lacking: Tensor

    @classmethod
    def zeros(cls, outputs: int, inputs: int, device: torch.device) -> Sums:
        """No token seen yet."""
        return cls(
            torch.zeros(inputs, inputs, device=device), torch.zeros(outputs, inputs, device=device)
        )

    def add(self, y: Tensor, r: Tensor) -> None:
        """Take in tokens: y [tokens, k] and r [tokens, out]."""
        self.gram.addmm_(y.T, y)
        self.lacking.addmm_(r.T, y)

    def take(self, other: Sums) -> None:
        """Take in the tokens of other sums."""
        self.gram += other.gram
        self.lacking += other.lacking

    def loss(self, change: Tensor) -> float:
        """Sum of |C y - r|^2 for a change C [out, k] of the weight, less what does not depend on it."""
        return float(((change @ self.gram - 2 * self.lacking) * change).sum())


def refit(sums: Sums, damp: float) -> Tensor:
    """The change C of a weight that minimises |C y - r|^2 + lambda |C|^2 over the tokens of `sums`.

    Args:
        sums: of the calibration tokens.
        damp: lambda as a share of the mean diagonal of the Gram matrix.

    Returns:
        C [out, k]; zero where the system cannot be solved.
    """
    if math.isinf(damp):
        return torch.zeros_like(sums.lacking)
    system = sums.gram.to(
        torch.float64, copy=True
    ).mT  # symmetric; in LAPACK's order the factor takes its place, and a large one is never there twice
    system.diagonal().add_(damp * system.diagonal().mean().clamp_min(1e-12))
    failed = torch.empty((), dtype=torch.int32, device=system.device)
    torch.linalg.cholesky_ex(system, out=(system, failed))
    if int(failed):
        return torch.zeros_like(sums.lacking)
    half = torch.linalg.solve_triangular(system, sums.lacking.double().mT, upper=False)
    return torch.linalg.solve_triangular(system.mT, half, upper=True).mT.to(sums.lacking)


def choose_damp(fit: Sums, held: Sums) -> float:
    """The ridge whose fit on one part of the tokens does best on another: few tokens must not do harm."""
    return min(DAMPS, key=lambda damp: held.loss(refit(fit, damp)))


class _Enough(Exception):
    """Raised by a hook once it has seen the input of the projection in question."""


class Compensation:
    """Follows what the uncut model's layers put out, and refits one layer after the other so that the cut model does the same.

    Args:
        architecture: of the uncut model.
        kept: what stays.
        states: what enters the first layer for all calibration rows.
        buffer: for three more sets of such states.
    """

    def __init__(
        self,
        architecture: Architecture,
        kept: KeptParts,
        states: Activations,
        buffer: ActivationBuffer,
    ) -> None:
        self.architecture = architecture
        self.kept = kept
        self.whole, *self.wanted = (buffer.allocate(*states.shape, states.device) for _ in range(3))
        rows, seq, _ = states.shape
        size = max(
            1, min(rows // 8, ROWS_AT_ONCE, TOKENS_AT_ONCE // seq)
        )  # at least eight batches, so that there is one to hold out
        self.batches = [slice(first, min(first + size, rows)) for first in range(0, rows, size)]
        for batch in self.batches:
            self.whole[batch] = states[batch]

    def refit(self, index: int, module: nn.Module, call: LayerCall, states: Activations) -> None:
        """Refit o_proj and down_proj of an uncut layer in place, if it stays.

        The columns of removed heads and neurons become zero. A layer with experts has no down_proj of
        its own: there o_proj alone makes up for what went, in the layers before it too.

        Args:
            index: of the layer; they must come in order.
            module: the layer with its weights in float32.
            call: how the model would call it.
            states: what enters it in the cut model.
        """
        layer = self.architecture.layers[index]
        wanted_of = dict(zip(layer.branches, self.wanted, strict=True))
        branches = [branch for branch in layer.branches if branch.block.output]
        for batch in self.batches:
            output, wanted = _wanted(module, layer, call, self.whole[batch])
            self.whole[batch] = output
            for branch in branches:
                wanted_of[branch][batch] = wanted[_output(branch)].view_as(output)
        if index not in self.kept.layers:
            return
        columns = self.kept.inputs(layer)
        for branch in branches:
            refit_one = _Projection(layer, branch, module, columns[_output(branch)])
            self._refit_one(refit_one, call, states, wanted_of[branch])

    def _refit_one(
        self, projection: _Projection, call: LayerCall, states: Activations, wanted: Activations
    ) -> None:
        """Replace a projection by its refit; columns that go become zero, as if they were cut."""
        name, module = _output(projection.branch), projection.module
        weight = weight_of(module.get_submodule(name))
        kept = projection.kept.to(weight.device)
        old = weight[:, kept]
        fit, held = (Sums.zeros(len(old), len(kept), old.device) for _ in range(2))
        for number, batch in enumerate(self.batches):
            with (
                _watched(module, projection.layer, last=name) as (inputs, stream),
                suppress(_Enough),
            ):
                call(module, states[batch])
            t, y = wanted[batch].flatten(0, -2), inputs[name][:, kept]
            t = t if projection.branch.post_norm else t - stream[name]
            (held if number % 4 == 3 else fit).add(y, t - y @ old.T)
        damp = choose_damp(fit, held)
        fit.take(held)
        del held  # of a wide FFN, hundreds of megabytes
        weight.zero_()[:, kept] = old + refit(fit, damp)


@dataclass
class _Projection:
    """An output projection of a decoder layer, and which of its inputs stay."""

    layer: Layer
    branch: Branch
    module: nn.Module
    """The decoder layer."""
    kept: Tensor
    """int64 [channels]."""


def _output(branch: Branch) -> str:
    """The output projection of a block that has one."""
    assert branch.block.output
    return branch.block.output


def _wanted(
    module: nn.Module, layer: Layer, call: LayerCall, hidden: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """What a layer puts out, and what its output projections do.

    The stream before a projection is added where the projection can make up for its loss: where no
    norm stands between the two.
    """
    with _watched(module, layer) as (inputs, stream):
        output = call(module, hidden)
    wanted: dict[str, Tensor] = {}
    for branch in layer.branches:
        if name := branch.block.output:
            put_out = inputs[name] @ weight_of(module.get_submodule(name)).T
            wanted[name] = put_out if branch.post_norm else put_out + stream[name]
    return output, wanted


@contextmanager
def _watched(
    module: nn.Module, layer: Layer, last: str = ""
) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """What enters each output projection [tokens, width], and the stream before its block.

    The run ends at the projection called `last`, if one is named.
    """
    inputs: dict[str, Tensor] = {}
    stream: dict[str, Tensor] = {}

    def into(store: dict[str, Tensor], name: str, end: bool) -> Any:
        def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            store[name] = args[0].flatten(0, -2).float()
            if end:
                raise _Enough

        return hook

    branches = [branch for branch in layer.branches if branch.block.output]
    watched = [(_output(b), into(inputs, _output(b), _output(b) == last)) for b in branches]
    watched += [(b.norm.name, into(stream, _output(b), False)) for b in branches]
    handles = [module.get_submodule(at).register_forward_pre_hook(hook) for at, hook in watched]
    try:
        yield inputs, stream
    finally:
        for handle in handles:
            handle.remove()
