"""Find the nodes of an ONNX file that TensorRT cannot run, before anything is built.

Two sources are asked:

* Our own rules, taken from onnx-tensorrt's operator lists, the release notes and NvInfer.h
  (10.3, 10.7, 10.13). An operator that no rule mentions counts as supported.
* The parser of TensorRT for RTX, if it is installed. It belongs to TensorRT 11 and so knows more
  operators than the TensorRT on a device. That is why our own rules are always applied too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, numpy_helper

from ..errors import UsageError
from .platform_profile import JetPack
from .profile import version_key
from .violation import Violation

__all__ = ["NodeProblem", "check_graph", "graph_violations", "parser_violations"]

NEVER = ("DynamicQuantizeLinear", "MatMulInteger", "QLinearMatMul", "QLinearConv", "ConvInteger")
"""Standard ONNX operators that no TensorRT release can import."""
SINCE = {
    "LayerNormalization": "8.6",
    "Attention": "10.14",
    "RotaryEmbedding": "10.15",
    "RMSNormalization": "10.15",
    "TensorScatter": "10.15",
    "Swish": "11.0",
}
INT4 = (TensorProto.INT4, TensorProto.UINT4)
UINT8 = TensorProto.UINT8
INT4_SINCE = (10, 0)
ANY_RANK_SINCE = (10, 7)
BF16_SINCE = (9, 0)
LOAD = cast(Callable[..., onnx.ModelProto], onnx.load)  # pyright: ignore[reportUnknownMemberType]
NODES_NAMED = 2
"""How many nodes with the same problem a message names; it counts the others."""


@dataclass(frozen=True)
class NodeProblem:
    """A node that a TensorRT release cannot run.

    Attributes:
        node: name of the node.
        op: its operator.
        rule: `operator`, `quantization`, `bf16` or `uint8`.
        reason: why TensorRT cannot run it.
    """

    node: str
    op: str
    rule: str
    reason: str


def check_graph(model: onnx.ModelProto, tensorrt: str) -> list[NodeProblem]:
    """All nodes of a graph that this TensorRT release cannot run.

    Args:
        model: the graph; its external weights need not be loaded.
        tensorrt: the TensorRT version, such as `10.3.0`.
    """
    version = version_key(tensorrt)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
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
            f"belongs to the domain {node.domain}; TensorRT needs a plugin of that name",
        )
    elif node.op_type in NEVER:
        yield "operator", "cannot be imported by any TensorRT"
    elif node.op_type in SINCE and version < version_key(SINCE[node.op_type]):
        yield "operator", f"needs TensorRT {SINCE[node.op_type]} or later"


def _types(node: NodeProto, version: tuple[int, ...]) -> Iterator[tuple[str, str]]:
    cast_to = (
        {attribute.name: attribute.i for attribute in node.attribute}.get("to")
        if node.op_type == "Cast"
        else None
    )
    if cast_to == TensorProto.BFLOAT16 and version < BF16_SINCE:
        yield "bf16", "outputs BF16, which needs TensorRT 9.0 or later"
    if cast_to == UINT8:
        yield "uint8", "outputs UINT8, which TensorRT allows only as a network's input or output"


def _quantization(
    node: NodeProto, constants: dict[str, TensorProto], version: tuple[int, ...]
) -> Iterator[tuple[str, str]]:
    """Rules for QuantizeLinear and DequantizeLinear.

    Scales must be constants and zero points must be zero. INT4 is for weights only, and their
    size must be a multiple of the block size.
    """
    if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
        return
    scale = constants.get(node.input[1])
    if scale is None:
        yield "quantization", "has a computed scale, and TensorRT needs a constant"
    zero = constants.get(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if zero is not None and not zero.external_data and np.any(numpy_helper.to_array(zero)):
        yield "quantization", "has a zero point, and TensorRT supports symmetric integers only"
    weight = constants.get(node.input[0])
    if weight is not None and weight.data_type in INT4 and scale is not None:
        yield from _int4(node, weight, scale, version)


def _int4(
    node: NodeProto, weight: TensorProto, scale: TensorProto, version: tuple[int, ...]
) -> Iterator[tuple[str, str]]:
    if version < INT4_SINCE:
        yield "quantization", "has INT4 weights, which need TensorRT 10.0 or later"
        return
    if len(weight.dims) != 2 and version < ANY_RANK_SINCE:
        yield (
            "quantization",
            f"has INT4 weights with {len(weight.dims)} dimensions; TensorRT before 10.7 takes two",
        )
    if weight.dims[-1] % 2:
        yield (
            "quantization",
            f"has {weight.dims[-1]} INT4 weights in its last dimension; the number must be even",
        )
    blocked = len(scale.dims) == len(weight.dims)
    uneven = [
        size
        for size, blocks in zip(weight.dims, scale.dims, strict=False)
        if blocked and (not blocks or size % blocks)
    ]
    if uneven:
        yield (
            "quantization",
            f"has a dimension of {uneven[0]} weights, not a multiple of its block size",
        )
    if (
        blocked
        and sum(size != blocks for size, blocks in zip(weight.dims, scale.dims, strict=True)) > 1
    ):
        yield "quantization", "has blocks in more than one dimension"


def graph_violations(file: Path, releases: Sequence[JetPack]) -> list[Violation]:
    """Nodes that the JetPack releases of a target cannot run.

    A node that some of the releases can run is a note. A node that none can run is a refusal.

    Raises:
        UsageError: the file is not an ONNX model.
    """
    try:
        model = LOAD(str(file), load_external_data=False)
    except Exception as error:  # protobuf's own exception classes are not public
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
        more = f" and {len(names) - NODES_NAMED} more" if len(names) > NODES_NAMED else ""
        where = f" on JetPack {', '.join(by_release)}" if good else ""
        message = f"{op} `{'`, `'.join(names[:NODES_NAMED])}`{more}: {reason}{where}"
        nearest = (
            f"JetPack {' or '.join(good)}"
            if good
            else "--format tensorrt, or onnx with --precision fp16 or int4"
        )
        found.append(Violation(rule, message, nearest, "note" if good else "refuse"))
    return found


def parser_violations(file: Path) -> list[Violation] | None:
    """Nodes that the parser of TensorRT for RTX rejects, or None if it is not installed."""
    from ..export.tensorrt.rtx import installed, parser_errors  # loads NVIDIA's libraries

    trt = installed()
    if trt is None:
        return None
    nearest = "--format tensorrt, or onnx with --precision fp16 or int4"
    return [
        Violation("parser", f"TensorRT {trt.__version__}'s parser: {error}", nearest)
        for error in parser_errors(trt, file)
    ]
