"""Closed-form repair after a cut: what is kept of o_proj and down_proj is refitted to put out what all of it did.

The idea of FLAP (An et al. 2023, section 3.3) and SliceGPT (Ashkboos et al. 2024), with the fit of a whole matrix: layer by
layer, ridge regression from the inputs that the cut model really has to the outputs that the uncut model had (and to what the
stream has lost before it), pulled towards the old weights rather than towards zero. It needs no gradient and no labels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...console import progress
from ...models import Family, Shape, weight_of
from ...streaming import Layered
from ..layerwise import LayerCall, first_inputs
from .cut import Kept, head_channels

__all__ = ["Sums", "choose_damp", "compensate", "refit"]


DAMPS = (math.inf, 1.0, 0.1, 0.01)
"""Ridges to choose from, as shares of the mean diagonal of the Gram matrix; infinity keeps the weights as they are."""

ROWS_AT_ONCE = 8


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


class _Enough(Exception):
    """Raised by a hook once it has seen the input of the projection in question."""


def compensate(model: Layered, shape: Shape, rows: list[Tensor], kept: Kept) -> None:
    """Refit o_proj and down_proj of every kept layer of the *uncut* `model`, in place, so that it is better once it is cut.

    Only the columns of kept heads and neurons change; what the others hold is about to go.

    Args:
        model: the uncut model, in float32.
        shape: its sizes.
        rows: calibration rows int64 [2, seq], all of one length.
        kept: what stays.
    """
    family, stack = model.family, model.layers
    states, calls = first_inputs(model, rows)
    size = min(max(len(states) // 8, 1), ROWS_AT_ONCE)  # at least eight batches, so that there is one to hold out
    whole = [states[i : i + size] for i in range(0, len(states), size)]
    small = list(whole)
    with torch.no_grad(), progress("refitting what is kept", len(stack)) as bar:
        for i, (layer, call) in enumerate(zip(stack, calls, strict=True)):
            wanted = [_wanted(family, layer, call, hidden) for hidden in whole]
            whole = [output for output, _ in wanted]
            if i in kept.layers:
                columns = {family.o: head_channels(kept.heads[i], shape.head_dim), family.down: torch.tensor(kept.neurons[i])}
                for name, stay in columns.items():
                    _refit_one(family, name, stay.to(whole[0].device), layer, call, small, [of[name] for _, of in wanted])
                small = [call(layer, hidden) for hidden in small]
            bar.advance()


def _refit_one(
    family: Family, name: str, kept: Tensor, layer: nn.Module, call: LayerCall, states: list[Tensor], wanted: list[Tensor]
) -> None:  # fmt: skip
    """Replace one projection of a layer by its refit; columns that go become zero, which is what cutting them does."""
    weight = weight_of(layer.get_submodule(name))
    old = weight[:, kept]
    outputs, width = old.shape
    fit, held = (Sums.zeros(outputs, width, old.device) for _ in range(2))
    for number, (hidden, target) in enumerate(zip(states, wanted, strict=True)):
        with _watched(layer, family, last=name) as (inputs, stream), suppress(_Enough):
            call(layer, hidden)
        t = target if _normed(family, name) else target - stream[name]
        (held if number % 4 == 3 else fit).add(inputs[name][:, kept], t)
    damp = choose_damp(old, fit, held)
    fitted = refit(old, Sums(fit.gram + held.gram, fit.target + held.target), damp)
    weight.zero_()[:, kept] = fitted


def _wanted(family: Family, layer: nn.Module, call: LayerCall, hidden: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """What a layer puts out, and what its two projections do: with the stream before them, where they can make up for its loss."""
    with _watched(layer, family) as (inputs, stream):
        output = call(layer, hidden)
    of = {name: inputs[name] @ weight_of(layer.get_submodule(name)).T for name in (family.o, family.down)}
    return output, {name: t if _normed(family, name) else t + stream[name] for name, t in of.items()}


def _normed(family: Family, name: str) -> bool:
    """Whether a norm stands between this projection and the stream, so that it cannot make up for what the stream lost."""
    return (family.attention_post_norm if name == family.o else family.mlp_post_norm) is not None


@contextmanager
def _watched(layer: nn.Module, family: Family, last: str = "") -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """What enters o_proj and down_proj [tokens, width], and the stream before each; the run ends at `last`, if one is named."""
    inputs: dict[str, Tensor] = {}
    stream: dict[str, Tensor] = {}

    def into(store: dict[str, Tensor], name: str, end: bool) -> Any:
        def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            store[name] = args[0].flatten(0, -2).float()
            if end:
                raise _Enough

        return hook

    watched = [(name, inputs, name, name == last) for name in (family.o, family.down)]
    watched += [(family.attention_norm, stream, family.o, False), (family.mlp_norm, stream, family.down, False)]
    handles = [layer.get_submodule(at).register_forward_pre_hook(into(store, name, end)) for at, store, name, end in watched]
    try:
        yield inputs, stream
    finally:
        for handle in handles:
            handle.remove()
