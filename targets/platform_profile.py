"""What all boards of a kind share: JetPack releases, precisions, and the shapes of kernels."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from ..models import FORMATS
from ..steps.strict import STRICT

__all__ = [
    "AttentionShape",
    "EdgeLlm",
    "Int4",
    "JetPack",
    "Platform",
    "StrictModel",
    "declared_formats",
]


class StrictModel(BaseModel):
    """A part of a profile. Fields that it does not have are errors."""

    model_config = STRICT


class JetPack(StrictModel):
    """One JetPack release: the versions it pins and the opset its TensorRT reads."""

    name: str
    """The release, such as `6.2`. `6.2.1` means it too, unless it is listed itself."""
    l4t: str
    """Versions of L4T that belong to it, by which a device is recognized: `36.4.3 (6.2), 36.4.4`.

    Text in brackets is for people. `a - b` is a range.
    """
    cuda: str
    """Version of CUDA."""
    tensorrt: str
    """Version of TensorRT."""
    python: str
    """Version of the system's Python."""
    ubuntu: str
    """Version of Ubuntu."""
    max_opset: int
    """The highest ONNX opset that its TensorRT is documented to read."""
    notes: list[str] = []
    """Sentences for people."""


class Int4(StrictModel):
    """Requirements of a platform's INT4 kernels on a weight matrix."""

    symmetric_only: bool
    """Whether the zero point must be in the middle of the range."""
    identity_g_idx: bool
    """Whether a group must be consecutive input channels (no reordering at run time)."""
    group_sizes: list[int]
    """Numbers of input channels that may share a scale."""
    multiple_of: int = 1
    """Both sides of the matrix must be multiples of this."""
    min_tensorrt: str | None = None
    """The first TensorRT version with INT4 weights; None: it needs no TensorRT."""


class AttentionShape(StrictModel):
    """A head size that an attention kernel supports."""

    head_dim: int
    """Channels of a head."""
    query_per_kv: list[int]
    """Numbers of query heads per key/value head that it supports."""


class EdgeLlm(StrictModel):
    """Models that TensorRT-Edge-LLM supports."""

    model_types: list[str]
    """Families, by the `model_type` of their config.json."""
    attention: list[AttentionShape]
    """Attention shapes."""


def declared_formats(kind: str | None) -> list[str]:
    """Export formats that are declared to run on a kind of platform."""
    return [name for name, format in FORMATS.items() if kind in format.platforms]


class Platform(StrictModel):
    """Properties that all targets of a kind share."""

    name: str
    """Its name in profiles."""
    kind: Literal["jetson", "cpu"]
    """What runs the model: the GPU of a Jetson, or the CPU of any machine."""
    compute_capability: str | None = None
    """CUDA compute capability of the GPU, such as `8.7`."""
    fp16_ops_per_sm_clock: int = 0
    """Dense FP16 operations per streaming multiprocessor and clock; a multiply-add is two."""
    int8_ops_per_sm_clock: int = 0
    """The same for INT8."""
    bytes_per_sm_clock: float | None = Field(default=None, gt=0)
    """Bytes that a streaming multiprocessor can read from memory a clock; None: no limit known."""
    formats: list[str] = Field(default_factory=lambda data: declared_formats(data.get("kind")))
    """Export formats that run on it; default: those that are declared for its kind."""
    recommended: list[str] = Field(default_factory=lambda data: data.get("formats", []))
    """Formats that are recommended for it, the best first."""
    precisions: list[str]
    """Precisions that it computes in, or has kernels for."""
    int4: Int4
    """Requirements of its INT4 kernels."""
    edge_llm: EdgeLlm | None = None
    """What TensorRT-Edge-LLM supports on it; None: it does not run there."""
    min_opset: int
    """The oldest ONNX opset that is read."""
    jetpacks: list[JetPack] = []
    """JetPack releases, oldest first; a platform that is no Jetson has none."""
    sources: list[str] = []
    """Where the figures are from: addresses."""
    notes: list[str] = []
    """Sentences for people. Those that begin with `unconfirmed:` name unconfirmed facts."""
