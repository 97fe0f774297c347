"""The ONNX opset of an artifact: the lowest that suffices, as old TensorRT reads no newer one."""

from __future__ import annotations

__all__ = ["LOWEST", "ir_version_of", "opset_of"]

LOWEST = 17
"""TensorRT 8.5 reads it, and it is the first with all operators of our decoder graphs."""
NEEDED = {"int8-fp16": 19, "int4": 21, "int4-fp16": 21, "int4-a8": 21}
"""Opset 19 added fp16 scales to DequantizeLinear, opset 21 INT4 and blocks."""
IR_VERSIONS = {17: 8, 18: 8, 19: 9, 20: 9, 21: 10}


def opset_of(precision: str) -> int:
    """The opset of an artifact of this precision (a name of `precision.PRECISIONS`)."""
    return NEEDED.get(precision, LOWEST)


def ir_version_of(opset: int) -> int:
    """The IR version (file format) of ONNX that belongs to an opset."""
    return IR_VERSIONS[opset]
