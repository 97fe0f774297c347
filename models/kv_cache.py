"""How an artifact caches keys and values, and the bytes that this takes. No torch is imported."""

from __future__ import annotations

from typing import Literal

from .architecture import Architecture

__all__ = ["KvCache", "constant_bytes", "element_bytes"]

KvCache = Literal["float", "int8"]
"""`float`: in the type of the activations; `int8`: integers with a scale for each channel."""
SCALE_BYTES = 4
"""Of a scale in ONNX Runtime's `GroupQueryAttention`, which takes float32 only."""


def element_bytes(kv_cache: KvCache, float_bytes: int) -> int:
    """Bytes of an element of the cache; `float_bytes` are those of an activation."""
    return 1 if kv_cache == "int8" else float_bytes


def constant_bytes(model: Architecture, kv_cache: KvCache, float_bytes: int, *, fused: bool) -> int:
    """Bytes of the scales and centers that a cache needs once, however many sequences there are.

    Keys and values each have a scale and a center for every channel. ONNX Runtime's own attention
    adds the center of the values to its output, so it needs it once more for each query head.

    Args:
        model: the architecture.
        kv_cache: how keys and values are cached.
        float_bytes: bytes of an activation.
        fused: whether the attention is ONNX Runtime's own operator.
    """
    if kv_cache == "float":
        return 0
    total = 0
    for layer in model.layers:
        sizes = layer.attention.sizes
        channels = sizes.kv_heads * sizes.head_dim
        if fused:
            total += 2 * channels * (SCALE_BYTES + float_bytes)
            total += sizes.heads * sizes.head_dim * float_bytes
        else:
            total += 4 * channels * float_bytes
    return total
