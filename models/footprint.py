"""Bytes of the weights of a model in any precision, from config.json alone.

Low-bit precisions apply to the linear layers of the decoder. Embedding, head, norms and biases stay
in floating point: 2 bytes for GPUs, 4 in ONNX graphs for CPUs (`float_bytes`). Where embedding and
head are packed, they have a size of their own (`table_bytes`).
"""

from __future__ import annotations

import math

from ..errors import UsageError
from .architecture import Architecture
from .blocks import Linear
from .packed_tables import TableBytes

__all__ = [
    "CHANNEL_SCALES",
    "PRECISIONS",
    "check_precision",
    "float_bytes_of",
    "head_bytes",
    "mixture_work",
    "read_size",
    "size_of",
    "traffic",
]

PRECISIONS = ("fp32", "fp16", "bf16", "fp8", "int8", "int8-dynamic", "int4", "int3", "int2")
FLOAT_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}
GROUPED = {"int4": 4, "int3": 3, "int2": 2}
"""Bits of a weight, for the precisions with one scale per group of input channels."""
CHANNEL_SCALES = {"int8": 4, "int8-dynamic": 4}
"""Bytes of a scale, for the precisions with one float32 scale per output channel."""


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
    """Bytes of a parameter outside the quantized layers: 4 in float32 graphs, else 2."""
    return 4 if precision in ("fp32", "int8-dynamic") else 2


def size_of(
    model: Architecture,
    precision: str,
    group_size: int = 128,
    *,
    float_bytes: int | None = None,
    tokens: int | None = None,
    table_bytes: TableBytes | None = None,
) -> int:
    """Bytes of a model's weights on disk.

    A tied embedding counts once. Zero points, `g_idx` and file headers are left out; together they
    are under 0.5 %.

    Args:
        model: the architecture.
        precision: one of `PRECISIONS`.
        group_size: input channels that share a scale; -1: all of them.
        float_bytes: of each parameter that is not quantized and of the scale of a group; default:
            `float_bytes_of`.
        tokens: leave out the experts that a pass over this many tokens does not use.
        table_bytes: of an embedding and a head that are packed; None: they are in floating point.

    Raises:
        UsageError: unknown precision.
    """
    check_precision(precision)
    floats = float_bytes or float_bytes_of(precision)
    linears = sum(
        count * _linear_size(linear, precision, group_size, floats)
        for linear, count in model.linear_counts(tokens).items()
    )
    rest = model.parameters - model.linear_weights()
    if table_bytes is None:
        return int(linears + rest * floats)
    rest -= head_bytes(model, 1) * (1 if model.tied else 2)
    return int(linears + rest * floats + table_bytes.embedding + table_bytes.head)


def _linear_size(linear: Linear, precision: str, group_size: int, float_bytes: int) -> int:
    """Bytes of one weight with its scales; scales of groups have the type of the floats."""
    n, k = linear.shape
    if precision in FLOAT_BYTES:
        return n * k * FLOAT_BYTES[precision]
    if precision in GROUPED:
        groups = 1 if group_size < 0 else -(-k // group_size)
        return n * k * GROUPED[precision] // 8 + n * groups * float_bytes
    return n * k + n * CHANNEL_SCALES.get(precision, 0)


def head_bytes(model: Architecture, float_bytes: int) -> int:
    """Bytes of the embedding, or of the head, which has the same shape."""
    return model.vocab_size * model.hidden_size * float_bytes


def read_size(
    model: Architecture,
    precision: str,
    group_size: int,
    float_bytes: int,
    tokens: int | None = 1,
    table_bytes: TableBytes | None = None,
) -> int:
    """Bytes of weights that a pass over this many tokens reads.

    Left out are experts that the pass does not use, and an untied embedding, of which it reads only
    a few rows.
    """
    size = size_of(
        model,
        precision,
        group_size,
        float_bytes=float_bytes,
        tokens=tokens,
        table_bytes=table_bytes,
    )
    if model.tied:
        return size
    return size - (table_bytes.embedding if table_bytes else head_bytes(model, float_bytes))


def traffic(model: Architecture, bits: float, head_bits: float, tokens: int | None = 1) -> int:
    """Bytes that a pass over this many tokens reads, for any mean number of bits per weight.

    Args:
        model: the architecture.
        bits: of a weight in a linear layer, its share of the scales included.
        head_bits: of a weight in the head, likewise.
        tokens: experts that these do not use are left out; None: all experts are read.
    """
    return int(model.linear_weights(tokens) * bits / 8 + head_bytes(model, 1) * head_bits / 8)


def mixture_work(used: int, whole: int) -> int:
    """The work of a dense model that takes as long as a mixture of experts.

    Routing and many small products make a mixture slower than the part of it that a token uses.
    Published rates fit the geometric mean of that part and the whole model, which `perf/shapes`
    assumes too. In a dense model the two are equal, and so is their mean.

    Args:
        used: bytes or multiply-adds of the part that a token uses.
        whole: the same of the whole model.
    """
    return math.isqrt(used * whole)
