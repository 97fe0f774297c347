"""A KV cache in 8 bits in standard operators, which TensorRT reads too.

QuantizeLinear rounds new keys and values, which are then joined to the cached integers. Attention
reads the result of DequantizeLinear. TensorRT's rule for INT8 is a scale for each channel of
weights, and one scale for any other tensor. So both nodes have the scale 1, and the scales of the
channels are outside: new keys and values are divided by them, and queries and the output of
attention, which are small, are multiplied by them. The product with the cache needs its integers
only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, helper, numpy_helper

from .cache_ranges import ChannelRange

__all__ = ["round_standard_cache"]

ONE = "cache.one"
ZERO = "cache.zero"
"""Scale and zero point of all QuantizeLinear and DequantizeLinear nodes of the cache."""


def round_standard_cache(
    graph: GraphProto, ranges: Mapping[str, ChannelRange], dtype: np.dtype
) -> None:
    """Let a graph store its keys and values in 8 bits.

    Args:
        graph: in standard operators; its nodes and constants are changed.
        ranges: by name of the cache input.
        dtype: of keys and values.
    """
    joined = {
        node.output[0]: node.input[0]
        for node in graph.node
        if node.op_type == "Concat" and node.input[0] in ranges
    }
    turned = {
        node.output[0]: joined[node.input[0]]
        for node in graph.node
        if node.op_type == "Transpose" and node.input[0] in joined
    }
    _add_constants(graph, ranges, dtype)
    nodes: list[NodeProto] = []
    for node in graph.node:
        if node.output[0] in joined:
            nodes += _rounded(node)
        elif node.op_type == "MatMul" and node.input[1] in turned:
            nodes += _scaled_query(node, turned[node.input[1]])
        elif node.op_type == "MatMul" and node.input[1] in joined:
            nodes += _scaled_output(node, joined[node.input[1]])
        else:
            nodes.append(node)
        if node.output[0] in turned:
            node.input[0] = _floats(node.input[0])
    del graph.node[:]
    graph.node.extend(nodes)


def _add_constants(graph: GraphProto, ranges: Mapping[str, ChannelRange], dtype: np.dtype) -> None:
    """Scales and centers, [kv_heads, 1, head_dim] each."""
    heads = {one.name: one.type.tensor_type.shape.dim[1].dim_value for one in graph.input}
    constants: dict[str, NDArray[Any]] = {
        ONE: np.ones((), dtype),
        ZERO: np.zeros((), np.int8),
    }
    for name, found in ranges.items():
        for part, values in (("scale", found.scale), ("center", found.center)):
            constants[f"{name}.{part}"] = values.reshape(heads[name], 1, -1).astype(dtype)
    graph.initializer.extend(
        numpy_helper.from_array(value, name) for name, value in constants.items()
    )


def _floats(present: str) -> str:
    """Name of the cache as attention reads it."""
    return f"{present}.floats"


def _rounded(join: NodeProto) -> Iterator[NodeProto]:
    """The nodes that round new keys or values, join them to the cache, and read all of it."""
    past, new = join.input
    centered, steps, rounded = (f"{past}.{part}" for part in ("centered", "steps", "rounded"))
    yield helper.make_node("Sub", [new, f"{past}.center"], [centered], centered)
    yield helper.make_node("Div", [centered, f"{past}.scale"], [steps], steps)
    yield helper.make_node("QuantizeLinear", [steps, ONE, ZERO], [rounded], rounded)
    join.input[1] = rounded
    yield join
    floats = _floats(join.output[0])
    yield helper.make_node("DequantizeLinear", [join.output[0], ONE, ZERO], [floats], floats)


def _scaled_query(product: NodeProto, past: str) -> Iterator[NodeProto]:
    """The product of queries and keys, with the scales of the keys in the queries."""
    query = f"{past}.query"
    yield helper.make_node("Mul", [product.input[0], f"{past}.scale"], [query], query)
    product.input[0] = query
    yield product


def _scaled_output(product: NodeProto, past: str) -> Iterator[NodeProto]:
    """The product of shares and values, then with the scales and centers of the values."""
    output = product.output[0]
    mixed, scaled, back = (f"{past}.{part}" for part in ("mixed", "scaled", "back"))
    product.input[1] = _floats(product.input[1])
    product.output[0] = mixed
    yield product
    yield helper.make_node("Mul", [mixed, f"{past}.scale"], [scaled], scaled)
    yield helper.make_node("Add", [scaled, f"{past}.center"], [output], back)
