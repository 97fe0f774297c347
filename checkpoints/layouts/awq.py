"""The AWQ layout (version "gemm"), as AutoAWQ, transformers, vLLM and TensorRT-Edge-LLM read it.

`qweight` int32 [in, out / 8], eight outputs per word; `qzeros` int32 [groups, out / 8], the zero
points unchanged; `scales` float16 [groups, out]. From the lowest bits up, a word holds outputs 0,
2, 4, 6, 1, 3, 5, 7 of its eight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..scheme import Scheme
from .packed import Layout, PackedLinear, pack_words, unpack_words

__all__ = ["Awq"]

BITS = 4
EACH = 8
ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of a word's eight outputs lies at each place, lowest first."""


class Awq(Layout):
    """AWQ in 4 bits; symmetric weights are stored with zero points of 8."""

    method = "awq"
    parts = ("qweight", "qzeros", "scales")
    marker = "qweight"

    def specs(self, outputs: int, width: int, scheme: Scheme) -> dict[str, Tensor]:
        """See `Layout.specs`."""
        groups = width // scheme.group(width)
        shapes = {
            "qweight": (width, outputs // EACH),
            "qzeros": (groups, outputs // EACH),
            "scales": (groups, outputs),
        }
        return {
            part: torch.empty(
                shape, dtype=torch.float16 if part == "scales" else torch.int32, device="meta"
            )
            for part, shape in shapes.items()
        }

    def write(self, packed: PackedLinear) -> dict[str, Tensor]:
        """See `Layout.write`."""
        return {
            "qweight": _words(packed.integers),
            "qzeros": _words(packed.zeros),
            "scales": packed.scales.t().contiguous().half(),
        }

    def read(self, parts: Mapping[str, Tensor], scheme: Scheme, name: str) -> PackedLinear:
        """See `Layout.read`."""
        integers = _unwords(parts["qweight"])
        zeros = _unwords(parts["qzeros"])
        scales = parts["scales"].t().contiguous().float()
        return PackedLinear(integers, scales, zeros, BITS, integers.shape[1] // scales.shape[1])

    def config(self, scheme: Scheme, damp: float, kept: Sequence[str] = ()) -> dict[str, Any]:
        """See `Layout.config`; `zero_point` is always true, as zero points are always stored."""
        return {
            "quant_method": "awq",
            "version": "gemm",
            "bits": scheme.bits,
            "group_size": scheme.group_size,
            "zero_point": True,
            "sym": scheme.sym,
            "modules_to_not_convert": list(kept),
        }


def _words(values: Tensor) -> Tensor:
    """uint8 [out, columns] to int32 [columns, out / 8]."""
    places = values.view(-1, EACH, values.shape[1])[:, ORDER].reshape(values.shape)
    return pack_words(places, BITS).t().contiguous()


def _unwords(words: Tensor) -> Tensor:
    """Undo `_words`."""
    places = unpack_words(words.t(), BITS)
    outputs = torch.empty_like(places).view(-1, EACH, places.shape[1])
    outputs[:, ORDER] = places.view_as(outputs)
    return outputs.view_as(places)
