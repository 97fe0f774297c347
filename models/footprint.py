"""Bytes of a model before it exists: weights by precision and KV cache, from config.json alone.

Low-bit precisions apply to the linear layers of the decoder. Embedding, head, norms and biases stay in floating point, as
in every format edgewright writes: 2 bytes for GPUs, 4 in ONNX graphs for CPUs (`float_bytes`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..errors import UsageError
from . import family_of

__all__ = [
    "PRECISIONS",
    "check_precision",
    "float_bytes_of",
    "head_bytes",
    "kv_size",
    "linear_macs",
    "linear_weights",
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
    config: Mapping[str, Any],
    precision: str,
    group_size: int = 128,
    *,
    float_bytes: int | None = None,
    tokens: int | None = None,
) -> int:
    """Bytes of a model's weights on disk.

    A tied embedding counts once. Zero points, `g_idx` and file headers (under 0.5 % together) are left out.

    Args:
        config: the model's config.json.
        precision: one of `PRECISIONS`.
        group_size: input channels an INT4 scale covers; -1 for the whole width.
        float_bytes: bytes of each parameter that is not quantized; by default 2, and 4 for fp32 and int8-dynamic.
        tokens: leave out the experts that a step on so many tokens does not use.

    Raises:
        UsageError: unknown precision, or a config that lacks a size.
        Refused: an architecture that is not supported.
    """
    check_precision(precision)
    family = family_of(config)
    floats = float_bytes or float_bytes_of(precision)
    shapes, counts, used = (
        family.linear_shapes(config),
        family.linear_counts(config),
        family.linear_counts(config, tokens),
    )
    linears = sum(
        used[name] * _linear_size(n, k, precision, group_size) for name, (n, k) in shapes.items()
    )
    rest = family.parameters(config) - sum(counts[name] * n * k for name, (n, k) in shapes.items())
    return int(linears + rest * floats)


def _linear_size(n: int, k: int, precision: str, group_size: int) -> int:
    """Bytes of one [n, k] weight with its scales."""
    if precision in FLOAT_BYTES:
        return n * k * FLOAT_BYTES[precision]
    if precision in GROUPED:
        groups = 1 if group_size < 0 else -(-k // group_size)
        return n * k * GROUPED[precision] // 8 + n * groups * SCALE_BYTES[precision]
    return n * k + n * SCALE_BYTES.get(precision, 0)


def head_bytes(config: Mapping[str, Any], float_bytes: int) -> int:
    """Bytes of the embedding table, which are also those of the head."""
    shape = family_of(config).shape(config)
    return shape.vocab_size * shape.hidden_size * float_bytes


def read_size(
    config: Mapping[str, Any],
    precision: str,
    group_size: int,
    float_bytes: int,
    tokens: int | None = 1,
) -> int:
    """Bytes of weights that a step on so many tokens reads: all but an untied embedding, of which it needs rows, and idle experts."""
    size = size_of(config, precision, group_size, float_bytes=float_bytes, tokens=tokens)
    tied = family_of(config).shape(config).tied
    return size if tied else size - head_bytes(config, float_bytes)


def traffic(
    config: Mapping[str, Any], bits: float, head_bits: float, tokens: int | None = 1
) -> int:
    """Bytes that a step on so many tokens reads where linear layers take `bits` a weight and the head `head_bits`, scales included."""
    return int(linear_weights(config, tokens) * bits / 8 + head_bytes(config, 1) * head_bits / 8)


def kv_size(
    config: Mapping[str, Any], context: int, batch: int = 1, *, element_bytes: int = 2
) -> int:
    """Bytes of KV cache for `batch` sequences of `context` tokens; sliding-window layers keep their window only."""
    family = family_of(config)
    shape = family.shape(config)
    tokens = sum(min(context, kind.window or context) for kind in family.layer_kinds(config))
    return 2 * shape.num_key_value_heads * shape.head_dim * tokens * batch * element_bytes


def linear_macs(config: Mapping[str, Any]) -> int:
    """Multiply-adds that a token costs in the linear layers of the decoder, the head aside."""
    return linear_weights(config, 1)


def linear_weights(config: Mapping[str, Any], tokens: int | None) -> int:
    """Weights of the decoder's linear layers that a step on so many tokens touches; all of them if None."""
    family = family_of(config)
    counts = family.linear_counts(config, tokens)
    return int(sum(counts[name] * n * k for name, (n, k) in family.linear_shapes(config).items()))


def with_toll(used: int, every: int) -> int:
    """What a mixture of experts takes as long as, of weights or multiply-adds: more than it uses, as experts take their toll.

    Routing and many small products make it slower than its active part alone; the geometric mean of that and of the whole is
    what published rates come to, here as in `perf/shapes`. Of a dense model the two are equal, and so is the mean.
    """
    return math.isqrt(used * every)
