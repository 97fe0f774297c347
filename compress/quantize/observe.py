"""What the linear layers of a decoder layer are given, gathered in one run of the layer over all calibration rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ...models import weight_of
from ..activations import Activations
from ..layerwise import LayerCall
from .gptq import add_to_hessian

__all__ = ["TOKENS", "Inputs", "observe"]

TOKENS = 8192
"""Tokens that a Gram matrix is made of; the search for scales needs no more, and larger matrices cost more than the rest."""


@dataclass
class Inputs:
    """What one group of linear layers that share an input is given.

    Attributes:
        gram: float32 [in, in], the sum of x x^T over some of the tokens; empty where nobody asked for it.
        size: float32 [in], the sum of |x| over all tokens.
        peak: float32 [in], the largest |x|.
        tokens: how many there were.
    """

    gram: Tensor
    size: Tensor
    peak: Tensor
    tokens: int = 0

    def add(self, x: Tensor, every: int) -> None:
        """Take in activations [..., in]; one token in `every` goes into the Gram matrix."""
        flat = x.detach().reshape(-1, x.shape[-1]).float()
        absolute = flat.abs()
        self.size += absolute.sum(0)
        torch.maximum(self.peak, absolute.amax(0), out=self.peak)
        if self.gram.numel():
            add_to_hessian(self.gram, flat[-self.tokens % every :: every])
        self.tokens += len(flat)

    @property
    def mean(self) -> Tensor:
        """The mean of |x|, float32 [in]."""
        return self.size / max(self.tokens, 1)

    def divided(self, factors: Tensor) -> Inputs:
        """The same after every input channel was divided by its factor [in]."""
        gram = self.gram / factors / factors.unsqueeze(1) if self.gram.numel() else self.gram
        return Inputs(gram, self.size / factors, self.peak / factors, self.tokens)


def observe(
    layer: nn.Module, groups: Sequence[tuple[str, ...]], states: Activations, call: LayerCall, gram: bool = True
) -> Mapping[tuple[str, ...], Inputs]:
    """Run a layer on all `states` and see what each of `groups` (linear layers that share an input) is given.

    Args:
        layer: a decoder layer.
        groups: names in it.
        states: hidden states [rows, seq, width]; not changed.
        call: how the model calls the layer.
        gram: whether Gram matrices are wanted.
    """
    every = max(1, len(states) * states.shape[1] // TOKENS)
    seen: dict[tuple[str, ...], Inputs] = {}
    handles = []
    for group in groups:
        reader = layer.get_submodule(group[0])
        width, device = weight_of(reader).shape[1], states.device
        side = width if gram else 0
        found = seen[group] = Inputs(
            torch.zeros(side, side, device=device), torch.zeros(width, device=device), torch.zeros(width, device=device)
        )
        handles.append(reader.register_forward_pre_hook(partial(_look, found, every)))
    try:
        for row in range(len(states)):
            call(layer, states[row])
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _look(found: Inputs, every: int, _module: nn.Module, args: tuple[Any, ...]) -> None:
    found.add(args[0], every)
