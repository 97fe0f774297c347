"""The mean norm of what a head or neuron hands to the output projection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..criterion import LayerCriterion

if TYPE_CHECKING:
    from torch import Tensor

    from ..layer_statistics import LayerStatistics

__all__ = ["CRITERION"]


def observe(inputs: Tensor, size: int) -> Tensor:
    """The norm [..., units] of every head or neuron; that of a single channel is its size."""
    return inputs.abs() if size == 1 else inputs.unflatten(-1, (-1, size)).norm(dim=-1)


def heads(layer: LayerStatistics) -> Tensor:
    """Scores [heads]."""
    return layer.head_mean


def neurons(layer: LayerStatistics) -> Tensor:
    """Scores [neurons]."""
    return layer.neuron_mean


CRITERION = LayerCriterion(
    name="norm",
    description="norm of the output",
    heads=heads,
    neurons=neurons,
    observe=observe,
)
