"""Matrix products in bfloat16 with float32 sums, for calibration and training on fast hardware."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch

__all__ = ["bf16_products", "mixed_precision"]


def mixed_precision(device: torch.device | str, bf16: bool) -> AbstractContextManager[Any]:
    """A context in which linear layers and attention compute in bfloat16, if `bf16` is set.

    Weights, and the residual stream between the layers, stay float32.
    """
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bf16)


@contextmanager
def bf16_products(bf16: bool) -> Iterator[None]:
    """A context in which float32 matrix products on the CPU round their factors to bfloat16.

    The sums stay float32. Without `bf16`, nothing changes.
    """
    mkldnn: Any = torch.backends.mkldnn
    matmul = mkldnn.matmul
    before = matmul.fp32_precision
    if bf16:
        matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before
