"""Packed low-bit weights: the integers, scales and zero points of one linear layer, and the GPTQ layout on disk.

The GPTQ layout (as transformers, vLLM, GPTQModel and TensorRT-Edge-LLM read it): `qweight` int32 [in / 8, out] with eight
nibbles along the input, lowest first; `qzeros` int32 [groups, out / 8] holding zero - 1 ("v1"); `scales` float16
[groups, out]; `g_idx` int32 [in], the group of each input channel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .configs import is_gptq
from .errors import UsageError

__all__ = ["PackedLinear", "from_gptq", "gptq_config", "gptq_specs", "is_gptq", "packed_names", "to_gptq"]

GPTQ_PARTS = ("qweight", "qzeros", "scales", "g_idx")


@dataclass(frozen=True)
class PackedLinear:
    """One quantized linear layer.

    Attributes:
        integers: uint8 [out, in], each in [0, 2**bits).
        scales: float32 [out, groups], exactly the float16 values that are stored.
        zeros: uint8 [out, groups]; 2**(bits - 1) everywhere when symmetric.
        bits: bits of an integer.
        group_size: consecutive input channels that share a scale; the whole width when -1 was asked for.
    """

    integers: Tensor
    scales: Tensor
    zeros: Tensor
    bits: int
    group_size: int

    @property
    def sym(self) -> bool:
        """Whether every zero point is the middle of the range."""
        return bool((self.zeros == 2 ** (self.bits - 1)).all())

    def dequantize(self) -> Tensor:
        """The float32 [out, in] weight that the integers stand for: (integer - zero) * scale."""
        out, width = self.integers.shape
        grouped = self.integers.view(out, -1, self.group_size).float()
        return ((grouped - self.zeros.float().unsqueeze(-1)) * self.scales.float().unsqueeze(-1)).view(out, width)


def _pack(values: Tensor, bits: int) -> Tensor:
    """Pack uint8 [rows * per_word, columns] into int32 [rows, columns], lowest bits first along the first axis."""
    per_word = 32 // bits
    words = values.long().view(-1, per_word, values.shape[1])
    shifts = (torch.arange(per_word) * bits).view(1, -1, 1)
    return _wrap_int32((words << shifts).sum(1))


def _wrap_int32(values: Tensor) -> Tensor:
    return torch.where(values >= 2**31, values - 2**32, values).to(torch.int32)


def _unpack(words: Tensor, bits: int) -> Tensor:
    """Undo `_pack`: int32 [rows, columns] to uint8 [rows * per_word, columns]."""
    per_word = 32 // bits
    shifts = (torch.arange(per_word, device=words.device) * bits).view(1, -1, 1)
    values = (words.long().unsqueeze(1) >> shifts) & (2**bits - 1)
    return values.reshape(-1, words.shape[1]).to(torch.uint8)


def to_gptq(packed: PackedLinear) -> dict[str, Tensor]:
    """The four tensors of the GPTQ layout (bits 2, 4 or 8)."""
    width = packed.integers.shape[1]
    bits = packed.bits
    zeros = (packed.zeros.t().long() - 1) & (2**bits - 1)  # v1 stores zero - 1
    return {
        "qweight": _pack(packed.integers.t(), bits),
        "qzeros": _pack(zeros.t(), bits).t().contiguous(),
        "scales": packed.scales.t().contiguous().half(),
        "g_idx": (torch.arange(width) // packed.group_size).to(torch.int32),
    }


def gptq_specs(outputs: int, width: int, bits: int, group_size: int) -> dict[str, Tensor]:
    """The shapes and dtypes of what `to_gptq` gives for a layer [outputs, width], as tensors on the meta device."""
    groups, per_word = width // group_size, 32 // bits
    shapes = {
        "qweight": (width // per_word, outputs),
        "qzeros": (groups, outputs // per_word),
        "scales": (groups, outputs),
        "g_idx": (width,),
    }
    return {
        part: torch.empty(shape, dtype=torch.float16 if part == "scales" else torch.int32, device="meta") for part, shape in shapes.items()
    }


def from_gptq(parts: Mapping[str, Tensor], bits: int, name: str) -> PackedLinear:
    """Read the GPTQ layout of one layer back.

    Raises:
        UsageError: the layer has a real `g_idx` (act-order with permuted groups), which has no blocked equivalent.
    """
    integers = _unpack(parts["qweight"], bits).t().contiguous()
    scales = parts["scales"].t().contiguous().float()
    width, groups = integers.shape[1], scales.shape[1]
    group_size = width // groups
    g_idx = parts.get("g_idx")
    if g_idx is not None and not torch.equal(g_idx.cpu().long(), torch.arange(width) // group_size):
        raise UsageError(f"{name}: g_idx permutes the groups", "quantize again with static act-order (desc_act false)")
    zeros = _unpack(parts["qzeros"].t(), bits).long()
    return PackedLinear(integers, scales, ((zeros + 1) % 2**bits).to(torch.uint8), bits, group_size)


def gptq_config(bits: int, group_size: int, sym: bool, damp: float) -> dict[str, Any]:
    """The `quantization_config` block that readers of the GPTQ layout expect."""
    return {
        "quant_method": "gptq", "checkpoint_format": "gptq", "bits": bits, "group_size": group_size, "sym": sym,
        "desc_act": False, "static_groups": True, "true_sequential": True, "damp_percent": damp, "lm_head": False,
        "pack_dtype": "int32",
    }  # fmt: skip


def packed_names(state: Mapping[str, Tensor]) -> list[str]:
    """The module names of the packed layers in a state dict, in its order."""
    return [key.removesuffix(".qweight") for key in state if key.endswith(".qweight")]
