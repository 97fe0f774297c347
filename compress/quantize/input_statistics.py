"""What the linear layers of a decoder layer are given, gathered in one run of the layer over all calibration rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ...models import weight_of
from ..calibration.activation_buffer import Activations
from ..calibration.hessian import Hessian
from ..calibration.layer_inputs import LayerCall, StopForward, batches

__all__ = ["TOKENS", "InputStatistics", "StatisticsCollector", "collect_statistics"]

TOKENS = 8192
"""Tokens that a Hessian is made of; the search for scales needs no more, and larger matrices cost more than the rest."""


@dataclass(frozen=True)
class InputStatistics:
    """What one group of linear layers that share an input is given.

    Attributes:
        hessian: float32 [in, in], the sum of x x^T over some of the tokens; empty where nobody asked for it.
        mean: float32 [in], the mean of |x| over all tokens.
        peak: float32 [in], the largest |x|.
    """

    hessian: Tensor
    mean: Tensor
    peak: Tensor

    def divided(self, factors: Tensor) -> InputStatistics:
        """The same after every input channel was divided by its factor [in]."""
        hessian = (
            self.hessian / factors / factors.unsqueeze(1) if self.hessian.numel() else self.hessian
        )
        return InputStatistics(hessian, self.mean / factors, self.peak / factors)


class StatisticsCollector:
    """Gathers the `InputStatistics` of one group while they come in.

    Args:
        width: channels of an input.
        device: where they come in.
        share: of the tokens that go into the Hessian.
    """

    def __init__(self, width: int, device: torch.device | str = "cpu", share: float = 1.0) -> None:
        self._hessian, self._tokens = (Hessian(width, device, share) if share else None), 0
        self._size, self._peak = (
            torch.zeros(width, device=device),
            torch.zeros(width, device=device),
        )

    def add(self, x: Tensor) -> None:
        """Take in activations [..., in]."""
        flat = x.detach().reshape(-1, x.shape[-1]).float()
        absolute = flat.abs()
        self._size += absolute.sum(0)
        self._peak = torch.maximum(self._peak, absolute.amax(0))
        if self._hessian:
            self._hessian.add(flat)
        self._tokens += len(flat)

    def inputs(self) -> InputStatistics:
        """What was seen; the object is not to be used afterwards."""
        hessian = (
            self._hessian.matrix() if self._hessian else torch.empty(0, device=self._size.device)
        )
        return InputStatistics(hessian, self._size / max(self._tokens, 1), self._peak)


def collect_statistics(
    layer: nn.Module,
    groups: Sequence[tuple[str, ...]],
    states: Activations,
    call: LayerCall,
    hessian: bool = True,
) -> Mapping[tuple[str, ...], InputStatistics]:
    """Run a layer on all `states` and see what each of `groups` (linear layers that share an input) is given.

    Args:
        layer: a decoder layer.
        groups: names in it, in order of execution.
        states: hidden states [rows, seq, width]; not changed.
        call: how the model calls the layer.
        hessian: whether Hessians are wanted.
    """
    share = TOKENS / (len(states) * states.shape[1]) if hessian else 0.0
    watches: dict[tuple[str, ...], StatisticsCollector] = {}
    handles = []
    for group in groups:
        reader = layer.get_submodule(group[0])
        watch = watches[group] = StatisticsCollector(
            weight_of(reader).shape[1], states.device, share
        )
        handles.append(reader.register_forward_pre_hook(partial(_look, watch, group == groups[-1])))
    try:
        for batch in batches(states):
            with suppress(StopForward):
                call(layer, states[batch])
    finally:
        for handle in handles:
            handle.remove()
    return {group: watch.inputs() for group, watch in watches.items()}


def _look(
    watch: StatisticsCollector, last: bool, _module: nn.Module, args: tuple[Any, ...]
) -> None:
    watch.add(args[0])
    if last:
        raise StopForward  # what the layer does after it does not matter
