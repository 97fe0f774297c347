"""Scores of heads, FFN neurons, layers and experts, which decide what is removed."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor
from torch.nn import functional as F

from .experts import ExpertUsage

__all__ = ["Importance", "block_influence"]


@dataclass
class Importance:
    """Scores; larger is more important.

    Attributes:
        heads: [layers, heads].
        neurons: [layers, neurons]; zero for a layer of experts.
        layers: [layers], the mean block influence.
        experts: what the experts did, by layer; only layers that have experts.
    """

    heads: Tensor
    neurons: Tensor
    layers: Tensor
    experts: dict[int, ExpertUsage] = field(default_factory=dict[int, ExpertUsage])


def block_influence(before: Tensor, after: Tensor) -> float:
    """Block influence, summed over tokens: 1 - cosine of a layer's input and output.

    Men et al. 2024, "ShortGPT", section 3.2.

    Args:
        before: hidden states [rows, seq, width] before the layer.
        after: those behind it.
    """
    return float((1 - F.cosine_similarity(before.float(), after.float(), dim=-1)).sum())
