"""The GPTQ layout, as transformers, vLLM, GPTQModel and TensorRT-Edge-LLM read it.

`qweight` int32 [in * bits / 32, out], a stream of integers along the input, lowest bits first
(eight of 4 bits in a word; 32 of 3 bits in three words); `qzeros` int32 [groups, out * bits / 32],
zero points minus one or, in `gptq_v2`, unchanged; `scales` float16 [groups, out]; `g_idx` int32
[in], the group of each input channel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...errors import UsageError
from ..scheme import Scheme
from .packed import Layout, PackedLinear, pack_words, unpack_words

__all__ = ["Gptq"]


class Gptq(Layout):
    """GPTQ in 2, 3, 4 and 8 bits.

    Args:
        plain_zeros: the files to read store zero points unchanged (`gptq_v2`). Files are always
            written as `gptq`.
    """

    method = "gptq"
    parts = ("qweight", "qzeros", "scales", "g_idx")
    marker = "qweight"

    def __init__(self, *, plain_zeros: bool = False) -> None:
        self._plain_zeros = plain_zeros

    def specs(self, outputs: int, width: int, scheme: Scheme) -> dict[str, Tensor]:
        """See `Layout.specs`."""
        groups = width // scheme.group(width)
        shapes = {
            "qweight": (width * scheme.bits // 32, outputs),
            "qzeros": (groups, outputs * scheme.bits // 32),
            "scales": (groups, outputs),
            "g_idx": (width,),
        }
        return {
            part: torch.empty(
                shape, dtype=torch.float16 if part == "scales" else torch.int32, device="meta"
            )
            for part, shape in shapes.items()
        }

    def write(self, packed: PackedLinear) -> dict[str, Tensor]:
        """See `Layout.write`."""
        width = packed.integers.shape[1]
        bits = packed.bits
        zeros = (packed.zeros.t().long() - 1) & (2**bits - 1)  # v1 stores zero - 1
        g_idx = torch.arange(width) // packed.group_size if packed.g_idx is None else packed.g_idx
        return {
            "qweight": pack_words(packed.integers.t(), bits),
            "qzeros": pack_words(zeros.t(), bits).t().contiguous(),
            "scales": packed.scales.t().contiguous().half(),
            "g_idx": g_idx.to(torch.int32),
        }

    def read(self, parts: Mapping[str, Tensor], scheme: Scheme, name: str) -> PackedLinear:
        """See `Layout.read`; the `g_idx` of consecutive groups is left out."""
        bits = scheme.bits
        integers = unpack_words(parts["qweight"], bits).t().contiguous()
        scales = parts["scales"].t().contiguous().float()
        width = integers.shape[1]
        groups = scales.shape[1]
        group_size = width // groups
        g_idx = parts.get("g_idx")
        if g_idx is not None and torch.equal(g_idx.cpu().long(), torch.arange(width) // group_size):
            g_idx = None
        if g_idx is not None and (
            len(g_idx) != width or int(g_idx.min()) < 0 or int(g_idx.max()) >= groups
        ):
            raise UsageError(
                f"{name}: g_idx names groups that are not there", "restore the weights of the model"
            )
        zeros = self._zeros(unpack_words(parts["qzeros"].t(), bits), scheme)
        return PackedLinear(integers, scales, zeros, bits, group_size, g_idx=g_idx)

    def _zeros(self, stored: Tensor, scheme: Scheme) -> Tensor:
        """The zero points, uint8 [out, groups], that stored ones stand for.

        Some published files name the wrong format. If the weights are symmetric, the values tell:
        every zero point is the middle of the range, or one less.
        """
        middle = 2 ** (scheme.bits - 1)
        if scheme.sym and any(bool((stored == value).all()) for value in (middle, middle - 1)):
            return torch.full_like(stored, middle)
        if self._plain_zeros:
            return stored
        return ((stored.long() + 1) % 2**scheme.bits).to(torch.uint8)

    def config(
        self,
        scheme: Scheme,
        damp: float,
        kept: Sequence[str] = (),
        *,
        desc_act: bool = False,
        dynamic: Mapping[str, Any] | None = None,
        lm_head: bool = False,
    ) -> dict[str, Any]:
        """See `Layout.config`; `dynamic` says what stays in floating point.

        Args:
            scheme: of every layer.
            damp: of the Hessian, for the record.
            kept: not used.
            desc_act: whether groups follow the order of columns, so that layers differ in `g_idx`.
            dynamic: settings of some layers, by `+:REGEX`; `-:REGEX`: those in floating point.
            lm_head: whether an untied head is packed as well.
        """
        return {
            "quant_method": "gptq",
            "checkpoint_format": "gptq",
            "bits": scheme.bits,
            "group_size": scheme.group_size,
            "sym": scheme.sym,
            "desc_act": desc_act,
            "static_groups": not desc_act,
            "true_sequential": True,
            "damp_percent": damp,
            "lm_head": lm_head,
            "pack_dtype": "int32",
            **({"dynamic": dict(dynamic)} if dynamic else {}),
        }

    def files(self, block: Mapping[str, Any]) -> dict[str, Any]:
        """See `Layout.files`."""
        return {"quantize_config.json": dict(block)}  # AutoGPTQ looks nowhere else
