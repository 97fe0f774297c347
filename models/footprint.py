"""Bytes of a model before it exists: weights by precision and KV cache, from config.json alone.

Low-bit precisions apply to the linear layers of the decoder. Embedding, head, norms and biases stay in floating point, as
in every format edgewright writes: 2 bytes for GPUs, 4 in ONNX graphs for CPUs (`float_bytes`).
"""

from __future__ import annotations

import math

from ..errors import UsageError
from .architecture import Architecture
from .blocks import Linear

__all__ = [
    "PRECISIONS",
    "check_precision",
    "float_bytes_of",
    "head_bytes",
    "read_size",
    "size_of",
    "traffic",
    "with_toll",
]

PRECISIONS = ("fp32", "fp16", "bf16", "fp8", "int8", "int8-dynamic", "int4", "int3", "int2")
FLOAT_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}
GROUPED = {"int4": 4, "int3": 3, "int2": 2}
"""Bits of a weight of the precisions that come in groups."""
SCALE_BYTES = {"int4": 2, "int3": 2, "int2": 2, "int8": 4, "int8-dynamic": 4}
"""Float16 scales a group in the layouts of INT4 and below, a float32 scale an output channel for INT8."""


def check_precision(precision: str) -> None:
    """Accept a precision by its name.

    Raises:
        UsageError: there is no such precision.
    """
    if precision not in PRECISIONS:
        raise UsageError(
            f"precision `{precision}` is not known", f"use one of {', '.join(PRECISIONS)}"
        )


def float_bytes_of(precision: str) -> int:
    """Bytes of a parameter outside the quantized layers, where the target does not say: 4 in float32 graphs, else 2."""
    return 4 if precision in ("fp32", "int8-dynamic") else 2


def size_of(
    model: Architecture,
    precision: str,
    group_size: int = 128,
    *,
    float_bytes: int | None = None,
    tokens: int | None = None,
) -> int:
    """Bytes of a model's weights on disk.

    A tied embedding counts once. Zero points, `g_idx` and file headers (under 0.5 % together) are left out.

    Args:
        model: the architecture.
        precision: one of `PRECISIONS`.
        group_size: input channels an INT4 scale covers; -1 for the whole width.
        float_bytes: bytes of each parameter that is not quantized; by default 2, and 4 for fp32 and int8-dynamic.
        tokens: leave out the experts that a step on so many tokens does not use.

    Raises:
        UsageError: unknown precision.
    """
    check_precision(precision)
    floats = float_bytes or float_bytes_of(precision)
    linears = sum(
        count * _linear_size(linear, precision, group_size)
        for linear, count in model.linear_counts(tokens).items()
    )
    rest = model.parameters - model.linear_weights()
    return int(linears + rest * floats)


def _linear_size(linear: Linear, precision: str, group_size: int) -> int:
    """Bytes of one weight with its scales."""
    n, k = linear.shape
    if precision in FLOAT_BYTES:
        return n * k * FLOAT_BYTES[precision]
    if precision in GROUPED:
        groups = 1 if group_size < 0 else -(-k // group_size)
        return n * k * GROUPED[precision] // 8 + n * groups * SCALE_BYTES[precision]
    return n * k + n * SCALE_BYTES.get(precision, 0)


def head_bytes(model: Architecture, float_bytes: int) -> int:
    """Bytes of the embedding table, which are also those of the head."""
    return model.vocab_size * model.hidden_size * float_bytes


def read_size(
    model: Architecture,
    precision: str,
    group_size: int,
    float_bytes: int,
    tokens: int | None = 1,
) -> int:
    """Bytes of weights that a step on so many tokens reads: all but an untied embedding, of which it needs rows, and idle experts."""
    size = size_of(model, precision, group_size, float_bytes=float_bytes, tokens=tokens)
    return size if model.tied else size - head_bytes(model, float_bytes)


def traffic(model: Architecture, bits: float, head_bits: float, tokens: int | None = 1) -> int:
    """Bytes that a step on so many tokens reads where linear layers take `bits` a weight and the head `head_bits`, scales included."""
    return int(model.linear_weights(tokens) * bits / 8 + head_bytes(model, 1) * head_bits / 8)


def with_toll(used: int, every: int) -> int:
    """What a mixture of experts takes as long as, of weights or multiply-adds: more than it uses, as experts take their toll.

    Routing and many small products make it slower than its active part alone; the geometric mean of that and of the whole is
    what published rates come to, here as in `perf/shapes`. Of a dense model the two are equal, and so is the mean.
    """
    return math.isqrt(used * every)
