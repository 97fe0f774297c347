"""The memory that building an engine takes, and whether a device has it. Standard library only."""

from __future__ import annotations

__all__ = ["build_bytes", "too_little_memory"]

SHARES = (3, 4)
"""Memory of a TensorRT build, as multiples of the bytes of the weights: from, to. Reported for
TensorRT-Edge-LLM: https://github.com/NVIDIA/TensorRT-Edge-LLM/issues/30"""


def build_bytes(weights: int) -> tuple[int, int]:
    """Bytes of memory that a build takes: from, to."""
    least, most = (share * weights for share in SHARES)
    return least, most


def too_little_memory(weights: int, memory: dict[str, int]) -> tuple[str, str] | None:
    """Why a device cannot build an engine, and what it can do; None: it has the memory.

    Args:
        weights: bytes of the artifact's weights.
        memory: `MemAvailable` and `SwapFree` of the device, in bytes.
    """
    if "MemAvailable" not in memory:
        return None
    free = memory["MemAvailable"] + memory.get("SwapFree", 0)
    least, most = build_bytes(weights)
    if free >= least:
        return None
    return (
        f"building the engine takes 3 to 4 times the weights, {_gb(least)} to {_gb(most)}, and "
        f"{_gb(free)} of memory and swap are free",
        f"that is enough for weights of {_gb(free // SHARES[0])}: use a lower --precision or a "
        f"smaller model; or close other programs, or add {_gb(least - free)} of swap; or "
        "--format gguf, which needs no build",
    )


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
