"""What TensorRT cannot do with an ONNX file, node by node, by the rules of its releases; and what NVIDIA's own parser says of it.

The rules are read from onnx-tensorrt's operator lists, the release notes and NvInfer.h (10.3, 10.7, 10.13); an operator that
is in none of them counts as read. The parser is that of TensorRT for RTX, of TensorRT 11's generation, where it is installed: it knows
more operators than those on a device, so that both are asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, numpy_helper

from ..errors import UsageError
from .profile import JetPack, version_key
from .rules import Violation

__all__ = ["NodeProblem", "check_graph", "graph_violations", "parser_violations"]

NEVER = ("DynamicQuantizeLinear", "MatMulInteger", "QLinearMatMul", "QLinearConv", "ConvInteger")
"""Standard operators that no release imports."""
SINCE = {
    "LayerNormalization": "8.6",
    "Attention": "10.14",
    "RotaryEmbedding": "10.15",
    "RMSNormalization": "10.15",
    "TensorScatter": "10.15",
    "Swish": "11.0",
}
INT4, UINT8 = (TensorProto.INT4, TensorProto.UINT4), TensorProto.UINT8
INT4_SINCE, ANY_RANK_SINCE, BF16_SINCE = (10, 0), (10, 7), (9, 0)
NAMED = 2
"""Nodes of a kind that are named; the others are counted."""


@dataclass(frozen=True)
class NodeProblem:
    """A node that a TensorRT does not take.

    Attributes:
        node: its name.
        op: its operator.
        rule: `operator`, `quantization`, `bf16` or `uint8`.
        reason: why not.
    """

    node: str
    op: str
    rule: str
    reason: str


def check_graph(model: onnx.ModelProto, tensorrt: str) -> list[NodeProblem]:
    """Every node of a graph that this TensorRT does not take.

    Args:
        model: the graph; the weights beside it need not be loaded.
        tensorrt: its version, such as `10.3.0`.
    """
    version, constants = (
        version_key(tensorrt),
        {tensor.name: tensor for tensor in model.graph.initializer},
    )
    found: list[NodeProblem] = []
    for node in model.graph.node:
        reasons = [
            *_operator(node, version),
            *_types(node, version),
            *_quantization(node, constants, version),
        ]
        found += [NodeProblem(node.name, node.op_type, rule, reason) for rule, reason in reasons]
    return found


def _operator(node: NodeProto, version: tuple[int, ...]) -> Iterator[tuple[str, str]]:
    if node.domain not in ("", "ai.onnx"):
        yield (
            "operator",
            f"is of the domain {node.domain}, which no TensorRT imports without a plugin of that name",
        )
    elif node.op_type in NEVER:
        yield "operator", "is imported by no TensorRT"
    elif node.op_type in SINCE and version < version_key(SINCE[node.op_type]):
        yield "operator", f"came with TensorRT {SINCE[node.op_type]}"


def _types(node: NodeProto, version: tuple[int, ...]) -> Iterator[tuple[str, str]]:
    made = (
        {attribute.name: attribute.i for attribute in node.attribute}.get("to")
        if node.op_type == "Cast"
        else None
    )
    if made == TensorProto.BFLOAT16 and version < BF16_SINCE:
        yield "bf16", "makes BF16, which came with TensorRT 9.0"
    if made == UINT8:
        yield "uint8", "makes UINT8, which TensorRT has for inputs and outputs of a network only"


def _quantization(
    node: NodeProto, constants: dict[str, TensorProto], version: tuple[int, ...]
) -> Iterator[tuple[str, str]]:
    """The rules of QuantizeLinear and DequantizeLinear: scales are constants and zero points zero; INT4 is weights, in blocks that fit."""
    if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
        return
    scale = constants.get(node.input[1])
    if scale is None:
        yield "quantization", "has a scale that is computed, where TensorRT wants a constant"
    zero = constants.get(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if zero is not None and not zero.external_data and np.any(numpy_helper.to_array(zero)):
        yield "quantization", "has a zero point, and TensorRT takes symmetric integers only"
    weight = constants.get(node.input[0])
    if weight is not None and weight.data_type in INT4 and scale is not None:
        yield from _int4(node, weight, scale, version)


def _int4(
    node: NodeProto, weight: TensorProto, scale: TensorProto, version: tuple[int, ...]
) -> Iterator[tuple[str, str]]:
    if version < INT4_SINCE:
        yield "quantization", "has INT4 weights, which came with TensorRT 10.0"
        return
    if len(weight.dims) != 2 and version < ANY_RANK_SINCE:
        yield (
            "quantization",
            f"has INT4 weights in {len(weight.dims)} dimensions; before TensorRT 10.7 these are two",
        )
    if weight.dims[-1] % 2:
        yield (
            "quantization",
            f"has {weight.dims[-1]} INT4 weights in its last dimension, an odd number",
        )
    blocked = len(scale.dims) == len(weight.dims)
    uneven = [
        size
        for size, blocks in zip(weight.dims, scale.dims, strict=False)
        if blocked and (not blocks or size % blocks)
    ]
    if uneven:
        yield "quantization", f"has {uneven[0]} weights that do not divide into its blocks"
    if (
        blocked
        and sum(size != blocks for size, blocks in zip(weight.dims, scale.dims, strict=True)) > 1
    ):
        yield "quantization", "is blocked in more than one dimension"


def graph_violations(file: Path, releases: Sequence[JetPack]) -> list[Violation]:
    """What the releases of a target do not take of an ONNX file: a note where some take it, a refusal where none does.

    Raises:
        UsageError: the file is no ONNX model.
    """
    try:
        model: onnx.ModelProto = onnx.load(str(file), load_external_data=False)  # pyright: ignore[reportUnknownMemberType] - its own types
    except Exception as error:  # protobuf raises its own, which is not part of its interface
        raise UsageError(f"{file}: not an ONNX model ({error})", "export it again") from error
    nodes: dict[tuple[str, str, str], dict[str, list[str]]] = {}
    for release in releases:
        for problem in check_graph(model, release.tensorrt):
            by_release = nodes.setdefault((problem.op, problem.rule, problem.reason), {})
            by_release.setdefault(release.name, []).append(problem.node)
    found: list[Violation] = []
    for (op, rule, reason), by_release in nodes.items():
        good = [release.name for release in releases if release.name not in by_release]
        names = next(iter(by_release.values()))
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        where = f" on JetPack {', '.join(by_release)}" if good else ""
        message = f"{op} `{'`, `'.join(names[:NAMED])}`{more}: {reason}{where}"
        nearest = (
            f"JetPack {' or '.join(good)}"
            if good
            else "--format tensorrt, or onnx with --precision fp16 or int4"
        )
        found.append(Violation(rule, message, nearest, "note" if good else "refuse"))
    return found


def parser_violations(file: Path) -> list[Violation] | None:
    """What TensorRT for RTX's parser says against a file, a node each; None where it is not installed."""
    from ..export.tensorrt.rtx import installed, parser_errors  # late: loads NVIDIA's libraries

    trt = installed()
    if trt is None:
        return None
    nearest = "--format tensorrt, or onnx with --precision fp16 or int4"
    return [
        Violation("parser", f"TensorRT {trt.__version__}'s parser: {error}", nearest)
        for error in parser_errors(trt, file)
    ]
