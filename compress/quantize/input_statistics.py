"""Collect statistics of the linear layers' inputs in one run of a decoder layer."""

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
"""Tokens that a Hessian is computed from. The search for scales needs no more."""


@dataclass(frozen=True)
class InputStatistics:
    """Statistics of the input that a group of linear layers shares.

    Attributes:
        hessian: float32 [in, in], the sum of x x^T over some of the tokens; empty if not wanted.
        mean: float32 [in], the mean of |x| over all tokens.
        peak: float32 [in], the largest |x|.
    """

    hessian: Tensor
    mean: Tensor
    peak: Tensor

    def divided(self, factors: Tensor) -> InputStatistics:
        """The statistics after every input channel is divided by its factor [in]."""
        hessian = (
            self.hessian / factors / factors.unsqueeze(1) if self.hessian.numel() else self.hessian
        )
        return InputStatistics(hessian, self.mean / factors, self.peak / factors)


class StatisticsCollector:
    """Collects the `InputStatistics` of one group of linear layers.

    Args:
        width: channels of an input.
        device: device of the inputs.
        share: share of the tokens that are used for the Hessian; 0: no Hessian.
    """

    def __init__(self, width: int, device: torch.device | str = "cpu", share: float = 1.0) -> None:
        self._hessian = Hessian(width, device, share) if share else None
        self._tokens = 0
        self._size = torch.zeros(width, device=device)
        self._peak = torch.zeros(width, device=device)

    def add(self, x: Tensor) -> None:
        """Add activations [..., in]."""
        flat = x.detach().reshape(-1, x.shape[-1]).float()
        absolute = flat.abs()
        self._size += absolute.sum(0)
        self._peak = torch.maximum(self._peak, absolute.amax(0))
        if self._hessian:
            self._hessian.add(flat)
        self._tokens += len(flat)

    def result(self) -> InputStatistics:
        """Return the statistics. Do not use the object afterwards."""
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
    """Run a decoder layer on all `states` and collect the input statistics of its linear layers.

    Args:
        layer: a decoder layer.
        groups: names of the linear layers that share an input, in order of execution.
        states: hidden states [rows, seq, width]; not changed.
        call: how the model calls the layer.
        hessian: whether Hessians are wanted.

    Returns:
        The statistics of each group.
    """
    share = TOKENS / (len(states) * states.shape[1]) if hessian else 0.0
    collectors: dict[tuple[str, ...], StatisticsCollector] = {}
    handles = []
    for group in groups:
        reader = layer.get_submodule(group[0])
        collector = collectors[group] = StatisticsCollector(
            weight_of(reader).shape[1], states.device, share
        )
        handles.append(
            reader.register_forward_pre_hook(partial(_collect, collector, group == groups[-1]))
        )
    try:
        for batch in batches(states):
            with suppress(StopForward):
                call(layer, states[batch])
    finally:
        for handle in handles:
            handle.remove()
    return {group: collector.result() for group, collector in collectors.items()}


def _collect(
    collector: StatisticsCollector, last: bool, _module: nn.Module, args: tuple[Any, ...]
) -> None:
    """A forward pre-hook that adds the inputs of a module, and ends the pass at the last group."""
    collector.add(args[0])
    if last:
        raise StopForward  # the rest of the layer is not needed
