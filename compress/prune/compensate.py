"""Refits o_proj and down_proj after a cut, so that their outputs are close to those before the cut.

The idea is that of FLAP (An et al. 2023, section 3.3) and SliceGPT (Ashkboos et al. 2024), with the
fit of a whole matrix: ridge regression, layer by layer. Its inputs are those of the cut model. Its
targets are the outputs of the uncut model, and what the residual stream lost before. The ridge
pulls towards the old weights, not towards zero. This needs no gradient, no labels, and one layer in
memory at a time.
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

__all__ = ["Compensation", "RegressionSums", "choose_damp", "refit"]


DAMPS = (math.inf, 1.0, 0.1, 0.01)
"""Ridges to choose from, as shares of the Hessian's mean diagonal; infinity keeps the weights."""
ROWS_AT_ONCE = 8
TOKENS_AT_ONCE = 4096


@dataclass
class RegressionSums:
    """Sums over calibration tokens, which the fit needs.

    With y the inputs of the cut model that stay, and r the residual, which is the wanted output
    minus the output of the old weights:

    Attributes:
        hessian: sum of y y^T [k, k].
        cross: sum of r y^T [out, k].
    """

    hessian: Tensor
    cross: Tensor

    @classmethod
    def zeros(cls, outputs: int, inputs: int, device: torch.device) -> RegressionSums:
        """Sums over no tokens."""
        return cls(
            torch.zeros(inputs, inputs, device=device), torch.zeros(outputs, inputs, device=device)
        )

    def add(self, y: Tensor, r: Tensor) -> None:
        """Add tokens: y [tokens, k] and r [tokens, out]."""
        self.hessian.addmm_(y.T, y)
        self.cross.addmm_(r.T, y)

    def merge(self, other: RegressionSums) -> None:
        """Add the tokens of other sums."""
        self.hessian += other.hessian
        self.cross += other.cross

    def loss(self, change: Tensor) -> float:
        """Sum of |C y - r|^2 for a change C [out, k] of the weight, without the constant |r|^2."""
        return float(((change @ self.hessian - 2 * self.cross) * change).sum())


def refit(sums: RegressionSums, damp: float) -> Tensor:
    """The change C of a weight that minimises |C y - r|^2 + lambda |C|^2 over the tokens of `sums`.

    Args:
        sums: of the calibration tokens.
        damp: lambda as a share of the mean diagonal of the Hessian.

    Returns:
        C [out, k]; zero if the system cannot be solved.
    """
    if math.isinf(damp):
        return torch.zeros_like(sums.cross)
    # It is symmetric. In LAPACK's order the factor overwrites it, so no second copy is needed.
    system = sums.hessian.to(torch.float64, copy=True).mT
    system.diagonal().add_(damp * system.diagonal().mean().clamp_min(1e-12))
    failed = torch.empty((), dtype=torch.int32, device=system.device)
    torch.linalg.cholesky_ex(system, out=(system, failed))
    if int(failed):
        return torch.zeros_like(sums.cross)
    half = torch.linalg.solve_triangular(system, sums.cross.double().mT, upper=False)
    return torch.linalg.solve_triangular(system.mT, half, upper=True).mT.to(sums.cross)


def choose_damp(fit: RegressionSums, held: RegressionSums) -> float:
    """The ridge whose fit on some tokens does best on others, so that few tokens do no harm."""
    return min(DAMPS, key=lambda damp: held.loss(refit(fit, damp)))


class _InputSeen(Exception):
    """Raised by a hook to end a layer's run once the wanted input was seen."""


class Compensation:
    """Refits a model layer by layer, towards the outputs of the uncut model.

    Args:
        architecture: of the uncut model.
        kept: what stays.
        states: hidden states of all calibration rows before the first layer.
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
        # At least eight batches, so that some can be held out.
        size = max(1, min(rows // 8, ROWS_AT_ONCE, TOKENS_AT_ONCE // seq))
        self.batches = [slice(first, min(first + size, rows)) for first in range(0, rows, size)]
        for batch in self.batches:
            self.whole[batch] = states[batch]

    def refit(self, index: int, module: nn.Module, call: LayerCall, states: Activations) -> None:
        """Refit o_proj and down_proj of an uncut layer in place, if the layer stays.

        The columns of removed heads and neurons become zero. A layer of experts has no down_proj of
        its own, so only its o_proj is refitted.

        Args:
            index: of the layer; layers must come in order.
            module: the layer with its weights in float32.
            call: calls the layer as the model does.
            states: hidden states before the layer, in the cut model.
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
        """Refit one projection in place. Its removed columns become zero."""
        name, module = _output(projection.branch), projection.module
        weight = weight_of(module.get_submodule(name))
        kept = projection.kept.to(weight.device)
        old = weight[:, kept]
        fit, held = (RegressionSums.zeros(len(old), len(kept), old.device) for _ in range(2))
        for number, batch in enumerate(self.batches):
            with (
                _captured(module, projection.layer, last=name) as (inputs, stream),
                suppress(_InputSeen),
            ):
                call(module, states[batch])
            y = inputs[name][:, kept]
            target = wanted[batch].flatten(0, -2)
            if _reaches_stream(projection.branch):
                target = (target - stream[name]) / projection.branch.scale
            (held if number % 4 == 3 else fit).add(y, target - y @ old.T)
        damp = choose_damp(fit, held)
        fit.merge(held)
        del held  # hundreds of megabytes for a wide FFN
        weight.zero_()[:, kept] = old + refit(fit, damp)


@dataclass
class _Projection:
    """An output projection of a decoder layer.

    Attributes:
        layer: description of the decoder layer.
        branch: the branch of the layer that it ends.
        module: the decoder layer.
        kept: input channels that stay, int64 [channels].
    """

    layer: Layer
    branch: Branch
    module: nn.Module
    kept: Tensor


def _output(branch: Branch) -> str:
    """Name of the output projection of a block that has one."""
    assert branch.block.output
    return branch.block.output


def _reaches_stream(branch: Branch) -> bool:
    """Whether the refit of a branch corrects earlier losses in the residual stream."""
    return branch.post_norm is None and not branch.beside


def _wanted(
    module: nn.Module, layer: Layer, call: LayerCall, hidden: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Run a layer of the uncut model.

    Returns:
        Its output, and by output projection what the refit aims at [tokens, width]. That includes
        the residual stream before the block, so that the refit also corrects earlier losses. It
        does not if a norm stands between the projection and the stream, or if the other block of
        the layer corrects them.
    """
    with _captured(module, layer) as (inputs, stream):
        output = call(module, hidden)
    wanted: dict[str, Tensor] = {}
    for branch in layer.branches:
        if name := branch.block.output:
            product = inputs[name] @ weight_of(module.get_submodule(name)).T
            if _reaches_stream(branch):
                product = branch.scale * product + stream[name]
            wanted[name] = product
    return output, wanted


@contextmanager
def _captured(
    module: nn.Module, layer: Layer, last: str = ""
) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """Capture the inputs of each output projection, and the residual stream before its block.

    Args:
        module: the decoder layer.
        layer: its description.
        last: the projection at which the run ends, if any.

    Yields:
        Both by the name of the projection, float32 [tokens, width].
    """
    inputs: dict[str, Tensor] = {}
    stream: dict[str, Tensor] = {}

    def into(store: dict[str, Tensor], name: str, end: bool) -> Any:
        def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            store[name] = args[0].flatten(0, -2).float()
            if end:
                raise _InputSeen

        return hook

    branches = [branch for branch in layer.branches if branch.block.output]
    hooks = [(_output(b), into(inputs, _output(b), _output(b) == last)) for b in branches]
    hooks += [(b.norm.name, into(stream, _output(b), False)) for b in branches if b.norm]
    handles = [module.get_submodule(at).register_forward_pre_hook(hook) for at, hook in hooks]
    try:
        yield inputs, stream
    finally:
        for handle in handles:
            handle.remove()
