"""Attention masks as graph nodes: added to the scores, so that a token sees only what it may."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from .builder import GraphBuilder
from .cut import Cut

__all__ = ["BOOL", "FLOAT", "INT64", "MASKED", "additive_masks", "length"]

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
MASKED = -30000.0
"""Added to masked scores.

It is finite even if a runtime computes softmax in fp16. So a row that sees nothing (padding on the
left) becomes an average, never NaN.
"""


def length(graph: GraphBuilder, value: str) -> str:
    """The size of axis 1, as a scalar."""
    return graph.node("Squeeze", graph.node("Shape", value, start=1, end=2), graph.constant([0]))


def additive_masks(
    graph: GraphBuilder, ids: str, mask: str, windows: list[int], cut: Cut
) -> dict[int, str]:
    """The mask for each window: float32 [batch, 1, sequence, total], 0 or MASKED.

    Args:
        graph: the graph to add nodes to.
        ids: token ids [batch, sequence].
        mask: int64 [batch, total], 0 for padding.
        windows: positions that a layer sees; 0: all.
        cut: sinks and window of the cache.
    """
    g = graph
    with g.at("mask"):
        total = length(g, mask)
        past = g.node("Sub", total, length(g, ids))
        zero, one = g.constant(0), g.constant(1)
        queries = g.node("Unsqueeze", g.node("Range", past, total, one), g.constant([1]))
        keys = g.node("Unsqueeze", g.node("Range", zero, total, one), g.constant([0]))
        real = g.node("Unsqueeze", g.cast(mask, INT64, BOOL), g.constant([1, 2]))
        causal = g.node("LessOrEqual", keys, queries)
        if cut.window:
            recent = g.node("Greater", keys, g.node("Sub", queries, g.constant(cut.window)))
            sinks = g.node("Less", keys, g.constant(cut.sinks))
            causal = g.node("And", causal, g.node("Or", recent, sinks))
        masks: dict[int, str] = {}
        for window in windows:
            seen = causal
            if window:  # a window of n holds the position itself and the n - 1 before it
                near = g.node("Greater", keys, g.node("Sub", queries, g.constant(window)))
                seen = g.node("And", causal, near)
            allowed = g.node("And", seen, real)
            zeros, lowered = g.constant(0, np.float32), g.constant(MASKED, np.float32)
            masks[window] = g.node("Where", allowed, zeros, lowered)
    return masks
