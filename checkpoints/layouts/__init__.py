"""Packed weights, and the layouts in which checkpoints on disk hold them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import Refused
from ..config import quantization
from .awq import Awq
from .gptq import Gptq
from .int8 import pack_int8, round_inputs, rounds_inputs
from .packed import Int8Inputs, Layout, PackedLinear, Scheme
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
        Refused: it is quantized in a layout that is not read here.
    """
    block = quantization(config)
    if block is None:
        return None
    method = str(block.get("quant_method"))
    if method not in LAYOUTS:
        raise Refused(
            f"{where}: quantized with {method}, which is not read here",
            f"use one of {', '.join(LAYOUTS)}, or floating point",
        )
    return LAYOUTS[method]
