"""The ONNX opset of an artifact: the lowest that suffices, as old TensorRT reads no newer one."""

from __future__ import annotations

__all__ = ["LOWEST", "ir_version_of", "opset_of"]

LOWEST = 17
"""TensorRT 8.5 reads it, and it is the first with all operators of our decoder graphs."""
FP16_SCALES = 19
"""The first opset with fp16 scales of QuantizeLinear and DequantizeLinear."""
NEEDED = {"int8-fp16": FP16_SCALES, "int4": 21, "int4-fp16": 21, "int4-a8": 21}
"""Opset 21 added INT4 and blocks."""
IR_VERSIONS = {17: 8, 18: 8, 19: 9, 20: 9, 21: 10}


def opset_of(precision: str, rounds_cache: bool = False) -> int:
    """The opset of an artifact.

    Args:
        precision: a name of `precision.PRECISIONS`.
        rounds_cache: whether standard operators round keys and values to 8 bits.
    """
    least = FP16_SCALES if rounds_cache and precision == "fp16" else LOWEST
    return NEEDED.get(precision, least)


def ir_version_of(opset: int) -> int:
    """The IR version (file format) of ONNX that belongs to an opset."""
    return IR_VERSIONS[opset]
