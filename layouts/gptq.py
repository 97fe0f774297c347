"""The GPTQ layout, as transformers, vLLM, GPTQModel and TensorRT-Edge-LLM read it.

`qweight` int32 [in / 8, out] with eight nibbles along the input, lowest first; `qzeros` int32 [groups, out / 8] holding
zero - 1 ("v1"); `scales` float16 [groups, out]; `g_idx` int32 [in], the group of each input channel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import UsageError
from .packed import Layout, PackedLinear, Scheme, pack_words, unpack_words

__all__ = ["Gptq"]


class Gptq(Layout):
    """GPTQ, version 1 of its zero points; 2, 4 and 8 bits."""

    method = "gptq"
    parts = ("qweight", "qzeros", "scales", "g_idx")
    marker = "qweight"

    def specs(self, outputs: int, width: int, scheme: Scheme) -> dict[str, Tensor]:
        """See `Layout.specs`."""
        groups, per_word = width // scheme.group(width), 32 // scheme.bits
        shapes = {
            "qweight": (width // per_word, outputs), "qzeros": (groups, outputs // per_word), "scales": (groups, outputs),
            "g_idx": (width,),
        }  # fmt: skip
        return {
            part: torch.empty(shape, dtype=torch.float16 if part == "scales" else torch.int32, device="meta")
            for part, shape in shapes.items()
        }

    def write(self, packed: PackedLinear) -> dict[str, Tensor]:
        """See `Layout.write`."""
        width, bits = packed.integers.shape[1], packed.bits
        zeros = (packed.zeros.t().long() - 1) & (2**bits - 1)  # v1 stores zero - 1
        return {
            "qweight": pack_words(packed.integers.t(), bits),
            "qzeros": pack_words(zeros.t(), bits).t().contiguous(),
            "scales": packed.scales.t().contiguous().half(),
            "g_idx": (torch.arange(width) // packed.group_size).to(torch.int32),
        }

    def read(self, parts: Mapping[str, Tensor], scheme: Scheme, name: str) -> PackedLinear:
        """See `Layout.read`; a real `g_idx` (act-order with permuted groups) is refused, as it has no blocked equivalent."""
        bits = scheme.bits
        integers = unpack_words(parts["qweight"], bits).t().contiguous()
        scales = parts["scales"].t().contiguous().float()
        width, groups = integers.shape[1], scales.shape[1]
        group_size = width // groups
        g_idx = parts.get("g_idx")
        if g_idx is not None and not torch.equal(g_idx.cpu().long(), torch.arange(width) // group_size):
            raise UsageError(f"{name}: g_idx permutes the groups", "quantize again with static act-order (desc_act false)")
        zeros = unpack_words(parts["qzeros"].t(), bits).long()
        return PackedLinear(integers, scales, ((zeros + 1) % 2**bits).to(torch.uint8), bits, group_size)

    def scheme(self, block: Mapping[str, Any], name: str) -> Scheme:
        """See `Layout.scheme`."""
        return Scheme(int(block["bits"]), int(block["group_size"]), bool(block.get("sym", True)))

    def config(self, scheme: Scheme, damp: float, kept: Sequence[str] = ()) -> dict[str, Any]:
        """See `Layout.config`."""
        return {
            "quant_method": "gptq", "checkpoint_format": "gptq", "bits": scheme.bits, "group_size": scheme.group_size, "sym": scheme.sym,
            "desc_act": False, "static_groups": True, "true_sequential": True, "damp_percent": damp, "lm_head": False,
            "pack_dtype": "int32",
        }  # fmt: skip
