"""Weights of the output projection times the norms of their inputs, summed for each head or neuron.

This is the weight importance of Wanda (Sun et al. 2023, equation 1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..criterion import LayerCriterion

if TYPE_CHECKING:
    from torch import Tensor

    from ..layer_statistics import LayerStatistics

__all__ = ["CRITERION"]


def observe(inputs: Tensor, size: int) -> Tensor:
    """The square [..., channels] of every input channel."""
    del size
    return inputs.pow(2)


def heads(layer: LayerStatistics) -> Tensor:
    """Scores [heads]: the sum over the channels of a head."""
    scores = _channel_scores(layer.attention_output, layer.head_mean)
    return scores.view(layer.attention_sizes.heads, layer.attention_sizes.head_dim).sum(-1)


def neurons(layer: LayerStatistics) -> Tensor:
    """Scores [neurons]: a neuron is one channel."""
    return _channel_scores(layer.ffn_output, layer.neuron_mean)


def _channel_scores(weight: Tensor, mean_square: Tensor) -> Tensor:
    """The scores [in] of the input channels of a weight [out, in]."""
    return weight.abs().sum(0) * mean_square.sqrt()


CRITERION = LayerCriterion(
    name="activation",
    description="output weights times the norms of their inputs",
    heads=heads,
    neurons=neurons,
    observe=observe,
)
