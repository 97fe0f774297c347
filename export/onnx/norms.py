"""Norms as graph nodes in standard operators, and their weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...models import Layer, Norm
from .builder import GraphBuilder
from .weights import Weights

__all__ = ["NamedNorm", "named_norm", "norm_scale", "norm_shift", "write_norm"]


@dataclass(frozen=True)
class NamedNorm:
    """A norm and the full name of its weight."""

    key: str
    norm: Norm

    @property
    def module(self) -> str:
        """The full name of the norm."""
        return self.key.removesuffix(".weight")


def named_norm(layer: Layer, norm: Norm | None) -> NamedNorm | None:
    """A norm of a layer with the full name of its weight; None: there is none."""
    return NamedNorm(layer.key(norm.name), norm) if norm else None


def norm_scale(graph: GraphBuilder, weights: Weights, named: NamedNorm) -> str:
    """What a norm multiplies by, float32 [channels]."""
    weight = weights.tensor(named.key).float() + named.norm.offset
    return graph.weight(named.key, weight.numpy())


def norm_shift(graph: GraphBuilder, weights: Weights, named: NamedNorm) -> list[str]:
    """What a norm adds, float32 [channels]; empty: nothing."""
    if not named.norm.bias:
        return []
    key = f"{named.module}.bias"
    return [graph.weight(key, weights.tensor(key).float().numpy())]


def write_norm(graph: GraphBuilder, weights: Weights, value: str, named: NamedNorm) -> str:
    """A norm over the last axis of a float32 value; the result is float32."""
    g, norm = graph, named.norm
    with g.at(named.module):
        scale = norm_scale(g, weights, named)
        shift = norm_shift(g, weights, named)
        if norm.kind == "layer":  # TensorRT 8.5 has no LayerNormalization
            value = g.node("Sub", value, g.reduce("ReduceMean", value))
        square = g.reduce("ReduceMean", g.node("Pow", value, g.constant(2, np.float32)))
        root = g.node("Sqrt", g.node("Add", square, g.constant(norm.epsilon, np.float32)))
        value = g.node("Mul", g.node("Div", value, root), scale)
        return g.node("Add", value, *shift) if shift else value
