"""The precisions of ONNX artifacts, and how far each may be from the torch model."""

from __future__ import annotations

from dataclasses import dataclass, replace

from onnx import TensorProto

from ...errors import UsageError
from ...models.packed_tables import rare_rows
from .opset import opset_of

__all__ = ["PRECISIONS", "Limits", "Precision", "precision_of"]


@dataclass(frozen=True)
class Limits:
    """How far the logits of an artifact may be from those of torch.

    Attributes:
        max_abs_diff: largest difference of a logit; None: no limit, as activations are quantized.
        kl: mean over positions of KL(torch || artifact), in nats.
        top1: share of positions whose most likely token agrees.
        tie: a token also agrees if its logit in torch is at most this far below the best one.
    """

    max_abs_diff: float | None
    kl: float
    top1: float
    tie: float

    def looser_of(self, other: Limits) -> Limits:
        """The looser limit of each kind."""
        return Limits(
            None
            if self.max_abs_diff is None or other.max_abs_diff is None
            else max(self.max_abs_diff, other.max_abs_diff),
            max(self.kl, other.kl),
            min(self.top1, other.top1),
            max(self.tie, other.tie),
        )


TABLES = Limits(None, 1e-3, 0.98, 2e-2)
"""Limits where the embedding and the head are rounded to 8 bits as the artifact is written. On a
model of 0.5 billion parameters that costs a KL of 1e-4 (perf/RESULTS.md)."""
RARE_ROWS = Limits(None, 7e-2, 0.85, 2e-2)
"""Limits where rare rows are rounded to 4 bits. On that model they cost a KL of 2e-3 on English
text, mathematics and code, and 2e-2 on Chinese and Russian, whose tokens are mostly rare."""


@dataclass(frozen=True)
class Precision:
    """One precision of an artifact.

    Attributes:
        name: the value of `--precision`.
        activations: ONNX type of activations, KV cache and weights that are not quantized.
        linear: how the linear layers of the decoder layers are stored: `dense`, `int4`, `int8`
            (inputs also in 8 bits, with a scale from the checkpoint) or `int8-dynamic` (inputs in
            8 bits with a scale for each token).
        limits: limits of the parity check.
        low_bit_here: whether ONNX Runtime has low-bit products for it. If not, ONNX Runtime expands
            the weights; TensorRT does not.
        rounds_inputs: whether the kernels of ONNX Runtime round the inputs of a product to 8 bits.
        packs_tables: whether an embedding and a head that the checkpoint stores in floating point
            are rounded to 8 bits, rare rows to 4.
        zero_points: whether 4-bit weights may have zero points; the format decides.
        rounds_cache: whether standard operators round keys and values to 8 bits.
    """

    name: str
    activations: int
    linear: str
    limits: Limits
    low_bit_here: bool = True
    rounds_inputs: bool = False
    packs_tables: bool = False
    zero_points: bool = True
    rounds_cache: bool = False

    @property
    def opset(self) -> int:
        """The ONNX opset of a graph."""
        return opset_of(self.name, self.rounds_cache)

    def with_packed_tables(self, rows: int) -> Precision:
        """The same precision with a packed embedding and head of `rows`, and the limits for it."""
        limits = RARE_ROWS if rare_rows(rows) else TABLES
        return replace(self, packs_tables=True, limits=self.limits.looser_of(limits))


PRECISIONS: dict[str, Precision] = {
    p.name: p
    for p in (
        Precision("fp32", TensorProto.FLOAT, "dense", Limits(1e-3, 1e-6, 1.0, 1e-4)),
        Precision("fp16", TensorProto.FLOAT16, "dense", Limits(1.0, 1e-3, 0.99, 1e-2)),
        # The size of fp16 with the range of float32, for TensorRT. Parity runs the graph that
        # `on_cpu.py` rewrites.
        Precision("bf16", TensorProto.BFLOAT16, "dense", Limits(None, 0.02, 0.97, 5e-2)),
        Precision("int4", TensorProto.FLOAT, "int4", Limits(0.05, 1e-4, 0.995, 1e-3)),
        # The same weights, with inputs rounded to 8 bits, a scale a block. Format ort only.
        Precision(
            "int4-a8", TensorProto.FLOAT, "int4", Limits(None, 0.1, 0.9, 1e-2), rounds_inputs=True
        ),
        # TensorRT's INT4 kernels need fp16 around them. In ONNX Runtime it is slower than int4.
        Precision("int4-fp16", TensorProto.FLOAT16, "int4", Limits(1.0, 1e-3, 0.99, 1e-2)),
        # Torch rounds activations alike, but a value halfway between two integers may differ.
        Precision("int8", TensorProto.FLOAT, "int8", Limits(None, 0.05, 0.95, 1e-2)),
        # In fp16 more values differ.
        Precision(
            "int8-fp16",
            TensorProto.FLOAT16,
            "int8",
            Limits(None, 0.05, 0.9, 3e-2),
            low_bit_here=False,
        ),
        Precision(
            "int8-dynamic",
            TensorProto.FLOAT,
            "int8-dynamic",
            Limits(None, 0.25, 0.75, 1e-2),
            rounds_inputs=True,
        ),
    )
}


def precision_of(name: str, packed_rows: int = 0) -> Precision:
    """The precision called `name`.

    Args:
        name: one of `PRECISIONS`.
        packed_rows: rows of an embedding and a head that `packs_tables` rounds; 0: it does not.

    Raises:
        UsageError: there is none.
    """
    if name not in PRECISIONS:
        raise UsageError(
            f"--precision {name}: unknown for ONNX", f"use one of {', '.join(PRECISIONS)}"
        )
    precision = PRECISIONS[name]
    return precision.with_packed_tables(packed_rows) if packed_rows else precision
