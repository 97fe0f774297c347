"""GGUF, the file format of llama.cpp."""

from __future__ import annotations

from collections.abc import Iterator

from ..architecture import Architecture
from ..export_format import ExportFormat, Reason

MODEL_TYPES = ("llama", "qwen2", "qwen3")
ROPE_TYPES = ("default", "linear")


def _reasons(architecture: Architecture) -> Iterator[Reason]:
    """What llama.cpp would not compute, or what edgewright does not write for it."""
    name = architecture.model_type
    if name not in MODEL_TYPES:
        yield Reason(
            f"{name} models are not written as GGUF here", f"one of {', '.join(MODEL_TYPES)}"
        )
        return
    attentions = [layer.attention for layer in architecture.layers]
    longest = architecture.max_positions
    if any(attention.window and longest and attention.window < longest for attention in attentions):
        yield Reason(
            f"has layers with a sliding window, which llama.cpp would not apply to a {name}",
            "--format onnx, or llama.cpp's own converter if it knows the model",
        )
    for kind in dict.fromkeys(attention.rope_type for attention in attentions):
        if kind not in ROPE_TYPES:
            yield Reason(
                f"rope_type `{kind}` is not written as GGUF here", "use llama.cpp's own converter"
            )


FORMAT = ExportFormat(
    name="gguf",
    description="for llama.cpp",
    writer="edgewright.export.gguf.writer:write",
    precisions=("fp16", "int8", "int4"),
    runtimes=("llama.cpp",),
    platforms=("jetson", "cpu"),
    reasons=_reasons,
    position=5,
)
