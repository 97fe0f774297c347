"""Rewrite a bf16 graph for ONNX Runtime on a CPU, which has no bf16 products.

The rewritten graph computes in float32 and rounds to bf16 where the original casts. So the parity
check covers the stored weights and every node, but not bf16 sums inside a product on the device.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from .runtime import FOR_CPU, MODEL

__all__ = ["write_for_cpu"]

BF16, FLOAT = TensorProto.BFLOAT16, TensorProto.FLOAT
STORED, ROUNDED = "stored.", "rounded."


def write_for_cpu(folder: Path) -> None:
    """Write `model.cpu.onnx` beside the `model.onnx` of a bf16 artifact; `OnnxDecoder` runs it.

    Both files use the same file of weights.
    """
    model = onnx.load(str(folder / MODEL), load_external_data=False)
    _rewrite(model)
    onnx.save(model, str(folder / FOR_CPU))


def _rewrite(model: ModelProto) -> None:
    graph = model.graph
    for value in (*graph.input, *graph.output, *graph.value_info):
        _declare_float32(value)
    nodes: list[NodeProto] = []
    for tensor in graph.initializer:
        if tensor.data_type == BF16:
            nodes.append(
                helper.make_node(
                    "Cast",
                    [STORED + tensor.name],
                    [tensor.name],
                    name=STORED + tensor.name,
                    to=FLOAT,
                )
            )
            tensor.name = STORED + tensor.name
    for node in graph.node:
        nodes.append(node)
        if node.op_type == "Cast" and node.attribute[0].i == BF16:
            result = node.output[0]
            node.output[0] = ROUNDED + result
            nodes.append(
                helper.make_node(
                    "Cast", [ROUNDED + result], [result], name=ROUNDED + node.name, to=FLOAT
                )
            )
    del graph.node[:]
    graph.node.extend(nodes)


def _declare_float32(value: ValueInfoProto) -> None:
    if value.type.tensor_type.elem_type == BF16:
        value.type.tensor_type.elem_type = FLOAT
