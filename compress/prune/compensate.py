"""Closed-form repair after a cut: what is kept of o_proj and down_proj is refitted to put out what all of it did.

The idea of FLAP (An et al. 2023, section 3.3) and SliceGPT (Ashkboos et al. 2024), with the fit of a whole matrix: layer by
layer, ridge regression from the inputs that the cut model really has to the outputs that the uncut model had (and to what the
stream has lost before it), pulled towards the old weights rather than towards zero. It needs no gradient and no labels.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ...console import progress
from ...models import Family, Shape, weight_of
from ..layerwise import LayerCall, first_inputs

__all__ = ["Sums", "choose_damp", "compensate", "refit"]


DAMPS = (math.inf, 1.0, 0.1, 0.01)
"""Ridges to choose from, as shares of the mean diagonal of the Gram matrix; infinity keeps the weights as they are."""


@dataclass
class Sums:
    """What the fit needs of calibration tokens, with y the kept inputs in the cut model and t the wanted outputs.

    `gram` is the sum of y y^T [k, k], `target` that of t y^T [out, k].
    """

    gram: Tensor
    target: Tensor

    @classmethod
    def zeros(cls, outputs: int, inputs: int, device: torch.device) -> Sums:
        """No token seen yet."""
        return cls(torch.zeros(inputs, inputs, device=device), torch.zeros(outputs, inputs, device=device))

    def add(self, y: Tensor, t: Tensor) -> None:
        """Take in tokens: y [tokens, k] and t [tokens, out]."""
        self.gram.addmm_(y.T, y)
        self.target.addmm_(t.T, y)

    def loss(self, weight: Tensor) -> float:
        """Sum of |W y - t|^2 for a weight [out, k], less what does not depend on it."""
        weight, gram, target = weight.double(), self.gram.double(), self.target.double()
        return float(((weight @ gram - 2 * target) * weight).sum())


def refit(weight: Tensor, sums: Sums, damp: float) -> Tensor:
    """The weight that minimises |W' y - t|^2 + lambda |W' - W|^2 over the tokens of `sums`.

    Args:
        weight: W [out, k], the kept columns as they are.
        sums: of the calibration tokens.
        damp: lambda as a share of the mean diagonal of the Gram matrix.

    Returns:
        W' [out, k]; W where the system cannot be solved.
    """
    if math.isinf(damp):
        return weight
    old, gram = weight.double(), sums.gram.double()
    ridge = damp * gram.diagonal().mean().clamp_min(1e-12)
    factor, failed = torch.linalg.cholesky_ex(gram + ridge * torch.eye(len(gram), device=gram.device, dtype=gram.dtype))
    gap = sums.target.double() - old @ gram
    return weight if int(failed) else (old + torch.cholesky_solve(gap.T, factor).T).to(weight)


def choose_damp(weight: Tensor, fit: Sums, held: Sums) -> float:
    """The ridge whose fit on one part of the tokens does best on another: few tokens must not do harm."""
    return min(DAMPS, key=lambda damp: held.loss(refit(weight, fit, damp)))


@dataclass
class _Seen:
    """What a layer's hooks saw of one row: inputs [tokens, width] of the two projections, and the stream before each."""

    inputs: dict[str, Tensor] = field(default_factory=dict)
    stream: dict[str, Tensor] = field(default_factory=dict)


def compensate(
    model: Any, family: Family, shape: Shape, rows: list[Tensor], heads: list[list[int]], neurons: list[list[int]], layers: list[int]
) -> None:
    """Refit o_proj and down_proj of every kept layer of the *uncut* `model`, in place, so that it is better once it is cut.

    Only the columns of kept heads and neurons change; what the others hold is about to go.

    Args:
        model: the uncut model, in float32.
        family: whose names to use.
        shape: its sizes.
        rows: calibration rows int64 [2, seq], all of one length.
        heads: kept query heads, a list a layer of the uncut model.
        neurons: kept FFN neurons, likewise.
        layers: kept layers.
    """
    stack = family.layer_list(model)
    whole, calls = first_inputs(model, stack, rows)
    small = list(whole)
    with torch.no_grad(), progress("refitting what is kept", len(stack)) as bar:
        for i, (layer, call) in enumerate(zip(stack, calls, strict=True)):
            if i in layers:
                cut = copy.deepcopy(layer)
                rows_of_head = torch.tensor(heads[i]).unsqueeze(-1) * shape.head_dim + torch.arange(shape.head_dim)
                for name, kept in ((family.o, rows_of_head.flatten()), (family.down, torch.tensor(neurons[i]))):
                    _refit_one(family, name, kept.to(whole[0].device), (layer, cut), call, (whole, small))
            whole = [call(layer, hidden) for hidden in whole]
            if i in layers:
                small = [call(cut, hidden) for hidden in small]
                for name in (family.o, family.down):
                    weight_of(layer.get_submodule(name)).copy_(weight_of(cut.get_submodule(name)))
            bar.advance()


def _refit_one(
    family: Family, name: str, kept: Tensor, pair: tuple[nn.Module, nn.Module], call: LayerCall, states: tuple[list[Tensor], list[Tensor]]
) -> None:
    """Replace one projection of the cut layer by its refit; columns that go become zero, which is what cutting them does."""
    whole_linear, linear = (layer.get_submodule(name) for layer in pair)
    old = weight_of(linear)[:, kept]
    fit, held = (Sums.zeros(*old.shape, old.device) for _ in range(2))
    for number, (before, after) in enumerate(zip(*states, strict=True)):
        with _watched(pair[0], family) as whole, _watched(pair[1], family) as small:
            call(pair[0], before)
            call(pair[1], after)
        wanted = whole.inputs[name] @ weight_of(whole_linear).T
        if not _normed(family, name):
            wanted = wanted + whole.stream[name] - small.stream[name]
        (held if number % 4 == 3 else fit).add(small.inputs[name][:, kept], wanted)
    damp = choose_damp(old, fit, held)
    fitted = refit(old, Sums(fit.gram + held.gram, fit.target + held.target), damp)
    weight_of(linear).zero_()[:, kept] = fitted


def _normed(family: Family, name: str) -> bool:
    """Whether a norm stands between this projection and the stream, so that it cannot make up for what the stream lost."""
    return (family.attention_post_norm if name == family.o else family.mlp_post_norm) is not None


@contextmanager
def _watched(layer: nn.Module, family: Family) -> Iterator[_Seen]:
    seen = _Seen()

    def into(store: dict[str, Tensor], name: str) -> Any:
        def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            store[name] = args[0].flatten(0, -2).float()

        return hook

    watched = [(name, seen.inputs, name) for name in (family.o, family.down)]
    watched += [(family.attention_norm, seen.stream, family.o), (family.mlp_norm, seen.stream, family.down)]
    handles = [layer.get_submodule(at).register_forward_pre_hook(into(store, name)) for at, store, name in watched]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
