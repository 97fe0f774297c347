"""Which ONNX opset an artifact is written in: the lowest that has what it needs, as older releases of TensorRT read no newer ones."""

from __future__ import annotations

__all__ = ["LOWEST", "ir_version_of", "opset_of"]

LOWEST = 17
"""What TensorRT 8.5 reads, and the first with all that a decoder is made of here."""
NEEDED = {"int8-fp16": 19, "int4": 21, "int4-fp16": 21, "int4-a8": 21}
"""DequantizeLinear with scales in half precision came with 19, INT4 and blocks of it with 21."""
IR_VERSIONS = {17: 8, 18: 8, 19: 9, 20: 9, 21: 10}


def opset_of(precision: str) -> int:
    """The opset of an artifact of this precision (a name of `precision.PRECISIONS`)."""
    return NEEDED.get(precision, LOWEST)


def ir_version_of(opset: int) -> int:
    """The file format of ONNX that came with an opset."""
    return IR_VERSIONS[opset]
