"""Packed weights, and the layouts in which checkpoints on disk hold them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..config import quantization
from ..packing import check_block, stores_plain_zeros
from ..scheme import Scheme
from .awq import Awq
from .gptq import Gptq
from .int8 import pack_int8, round_inputs, rounds_inputs
from .packed import Int8Inputs, Layout, PackedLinear
from .w8a8 import CompressedTensors, ModelOpt

__all__ = [
    "LAYOUTS",
    "Int8Inputs",
    "Layout",
    "PackedLinear",
    "Scheme",
    "layout_of",
    "pack_int8",
    "round_inputs",
    "rounds_inputs",
]

LAYOUTS: dict[str, Layout] = {
    layout.method: layout for layout in (Gptq(), Awq(), CompressedTensors(), ModelOpt())
}
"""By the `quant_method` of config.json."""


def layout_of(config: Mapping[str, Any], where: str = "config.json") -> Layout | None:
    """The layout of the packed layers of a checkpoint; None for a checkpoint in floating point.

    Raises:
        Refused: it is quantized in a way that is not read here.
        UsageError: its quantization block lacks a field.
    """
    block = quantization(config)
    if block is None:
        return None
    check_block(block, where)
    if stores_plain_zeros(block) and block["quant_method"] == Gptq.method:
        return Gptq(plain_zeros=True)
    return LAYOUTS[str(block["quant_method"])]
