"""A KV cache in 8 bits in ONNX Runtime's `GroupQueryAttention`: it rounds, and reads rounded."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, helper, numpy_helper

from .cache_ranges import ChannelRange
from .fused_linears import DOMAIN

__all__ = ["round_fused_cache"]

BITS = 8
BIASES = 12
"""Inputs of `GroupQueryAttention` before the scales."""


def round_fused_cache(
    graph: GraphProto, ranges: Mapping[str, ChannelRange], dtype: np.dtype
) -> None:
    """Let each attention store its keys and values in 8 bits.

    Args:
        graph: in ONNX Runtime's operators; its nodes and constants are changed.
        ranges: by name of the cache input.
        dtype: of keys and values.
    """
    nodes: list[NodeProto] = []
    for node in graph.node:
        rounds = node.op_type == "GroupQueryAttention" and node.domain == DOMAIN
        nodes += _rounded(graph, node, ranges, dtype) if rounds else [node]
    del graph.node[:]
    graph.node.extend(nodes)


def _rounded(
    graph: GraphProto, node: NodeProto, ranges: Mapping[str, ChannelRange], dtype: np.dtype
) -> list[NodeProto]:
    """An attention that stores its keys and values in 8 bits, and the nodes around it."""
    settings = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    key, value = node.input[3:5]
    node.input.extend([""] * (BIASES - len(node.input)))
    nodes: list[NodeProto] = []
    for place, name in ((1, key), (2, value)):
        node.input.append(_constant(graph, f"{name}.scale", ranges[name].scale))
        center = _constant(graph, f"{name}.center", ranges[name].center.astype(dtype))
        centered = f"{name}.centered"
        nodes.append(helper.make_node("Sub", [node.input[place], center], [centered], centered))
        node.input[place] = centered
    rounding = {"k_quant_type": "PER_CHANNEL", "v_quant_type": "PER_CHANNEL"}
    for name, setting in {**rounding, "kv_cache_bit_width": BITS}.items():
        node.attribute.append(helper.make_attribute(name, setting))
    kv_heads = settings["kv_num_heads"]
    groups = settings["num_heads"] // kv_heads
    heads = ranges[value].center.reshape(kv_heads, -1).repeat(groups, 0).reshape(-1)
    output = node.output[0]
    node.output[0] = f"{value}.mixed"
    back = _constant(graph, f"{value}.center.heads", heads.astype(dtype))
    nodes += [node, helper.make_node("Add", [node.output[0], back], [output], f"{value}.back")]
    return nodes


def _constant(graph: GraphProto, name: str, values: NDArray[np.floating]) -> str:
    graph.initializer.append(numpy_helper.from_array(values, name))
    return name
