"""The dtype that torch computes in: float32, or 16 bits where the processor is fast with them."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["bf16_is_fast", "fast_dtype", "uses_bf16"]


def bf16_is_fast(device: torch.device | str) -> bool:
    """Whether bfloat16 products run in hardware; emulation has a third of the speed of float32."""
    if torch.device(device).type != "cpu":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.13
    return any(capabilities.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16"))


def uses_bf16(asked: bool | None, device: torch.device | str) -> bool:
    """Whether products are computed in bfloat16: as asked, or where the processor is fast."""
    return bf16_is_fast(device) if asked is None else asked


def fast_dtype(stored: str, device: torch.device | str) -> str:
    """The fastest dtype that keeps what a checkpoint stores.

    Weights stored in 16 bits stay as they are where their products are fast. Everything else is
    computed in float32.

    Args:
        stored: the dtype that config.json names.
        device: where torch runs.
    """
    if stored == "bfloat16" and bf16_is_fast(device):
        return stored
    on_gpu = torch.device(device).type != "cpu"
    return stored if stored == "float16" and on_gpu else "float32"
