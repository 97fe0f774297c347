"""Activations of FFNs as graph nodes, in operators of every opset."""

from __future__ import annotations

from math import pi, sqrt

from .builder import GraphBuilder

__all__ = ["write_activation"]


def write_activation(graph: GraphBuilder, value: str, activation: str, dtype: type) -> str:
    """Apply an activation.

    Args:
        graph: the graph to add nodes to.
        value: the input.
        activation: silu, gelu, gelu_tanh or relu2; `expressible` lets no other through.
        dtype: numpy type of the input.
    """
    g = graph
    if activation == "silu":
        return g.node("Mul", value, g.node("Sigmoid", value))
    if activation == "relu2":
        positive = g.node("Relu", value)
        return g.node("Mul", positive, positive)
    if activation == "gelu":
        inner = g.node("Erf", g.node("Mul", value, g.constant(sqrt(0.5), dtype)))
    else:
        assert activation == "gelu_tanh"
        # x (1 + c x²) keeps the sign of x if x² overflows fp16. So tanh saturates, without NaN.
        square = g.node("Mul", g.node("Mul", value, value), g.constant(0.044715, dtype))
        inner = g.node("Mul", value, g.node("Add", square, g.constant(1.0, dtype)))
        inner = g.node("Tanh", g.node("Mul", inner, g.constant(sqrt(2 / pi), dtype)))
    half = g.node("Mul", value, g.constant(0.5, dtype))
    return g.node("Mul", half, g.node("Add", inner, g.constant(1.0, dtype)))
