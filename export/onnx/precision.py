"""The precisions that an ONNX artifact can have, and how far each may be from the torch model it was made from."""

from __future__ import annotations

from dataclasses import dataclass

from onnx import TensorProto

from ...errors import UsageError

__all__ = ["PRECISIONS", "Limits", "Precision", "precision_of"]


@dataclass(frozen=True)
class Limits:
    """How far an artifact may be from its torch twin.

    Attributes:
        max_abs_diff: largest difference of a logit; None where quantized activations make a single logit meaningless.
        kl: mean over positions of KL(torch || artifact), in nats.
        top1: share of positions whose most likely token agrees.
        tie: a token counts as agreeing when torch's logit for it is this close to torch's best one.
    """

    max_abs_diff: float | None
    kl: float
    top1: float
    tie: float


@dataclass(frozen=True)
class Precision:
    """One precision of an artifact.

    Attributes:
        name: as `--precision` spells it.
        activations: the ONNX type of weights that are not quantized, of activations and of the KV cache.
        linear: how the linear layers of the decoder layers are stored: `dense`, `int4`, `int8` (their inputs in 8 bits too, on a scale
            that the checkpoint fixes) or `int8-dynamic` (on a scale that each token has).
        limits: what parity accepts.
        low_bit_here: ONNX Runtime has low-bit products for it; where not, it expands the weights, and only TensorRT does not.
    """

    name: str
    activations: int
    linear: str
    limits: Limits
    low_bit_here: bool = True


PRECISIONS: dict[str, Precision] = {
    p.name: p
    for p in (
        Precision("fp32", TensorProto.FLOAT, "dense", Limits(1e-3, 1e-6, 1.0, 1e-4)),
        Precision("fp16", TensorProto.FLOAT16, "dense", Limits(1.0, 1e-3, 0.99, 1e-2)),
        # Of half precision's size with float32's range; for TensorRT, and compared as `on_cpu.py` rewrites it.
        Precision("bf16", TensorProto.BFLOAT16, "dense", Limits(None, 0.02, 0.97, 5e-2)),
        Precision("int4", TensorProto.FLOAT, "int4", Limits(0.05, 1e-4, 0.995, 1e-3)),
        # The same weights, but their inputs are rounded to 8 bits on a scale a block; in ONNX Runtime's own operators only.
        Precision("int4-a8", TensorProto.FLOAT, "int4", Limits(None, 0.1, 0.9, 1e-2)),
        # What TensorRT's INT4 kernels want around them; ONNX Runtime on a CPU computes it too, but slower than int4.
        Precision("int4-fp16", TensorProto.FLOAT16, "int4", Limits(1.0, 1e-3, 0.99, 1e-2)),
        # Torch rounds the same activations to the same integers, but one that lies between two of them falls either way.
        Precision("int8", TensorProto.FLOAT, "int8", Limits(None, 0.05, 0.95, 1e-2)),
        # In half precision more of them do.
        Precision(
            "int8-fp16",
            TensorProto.FLOAT16,
            "int8",
            Limits(None, 0.05, 0.9, 3e-2),
            low_bit_here=False,
        ),
        Precision(
            "int8-dynamic", TensorProto.FLOAT, "int8-dynamic", Limits(None, 0.25, 0.75, 1e-2)
        ),
    )
}


def precision_of(name: str) -> Precision:
    """The precision called `name`.

    Raises:
        UsageError: there is none.
    """
    if name not in PRECISIONS:
        raise UsageError(
            f"--precision {name}: unknown for ONNX", f"use one of {', '.join(PRECISIONS)}"
        )
    return PRECISIONS[name]
