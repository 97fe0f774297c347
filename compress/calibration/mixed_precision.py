"""Matrix products in bfloat16 with sums in float32, for what only calibrates or trains: where the processor is made for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch

__all__ = ["bf16_is_fast", "bf16_products", "mixed_precision"]


def bf16_is_fast(device: torch.device | str) -> bool:
    """Whether bfloat16 products run in hardware; a processor without them emulates, at a third of float32's speed."""
    if torch.device(device).type != "cpu":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.13
    return any(capabilities.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16"))


def mixed_precision(device: torch.device | str, bf16: bool) -> AbstractContextManager[Any]:
    """Linear layers and attention put out bfloat16 while this lasts, if `bf16`; weights and the stream between layers stay float32."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bf16)


@contextmanager
def bf16_products(bf16: bool) -> Iterator[None]:
    """While this lasts, products of float32 matrices on the CPU round what they multiply to bfloat16, if `bf16`, and nothing else."""
    mkldnn: Any = torch.backends.mkldnn
    matmul = mkldnn.matmul
    before = matmul.fp32_precision
    if bf16:
        matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before
