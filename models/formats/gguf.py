"""GGUF, the file format of llama.cpp."""

from __future__ import annotations

from collections.abc import Iterator

from ..architecture import Architecture
from ..export_format import ExportFormat, Reason

PRE_TOKENIZERS = {"llama": "llama-bpe", "qwen2": "qwen2", "qwen3": "qwen2"}
"""By each model type that is written: llama.cpp's name for how its tokenizer splits text."""
ROPE_TYPES = ("default", "linear")


def _reasons(architecture: Architecture) -> Iterator[Reason]:
    """What llama.cpp would not compute, or what edgewright does not write for it."""
    name = architecture.model_type
    if name not in PRE_TOKENIZERS:
        yield Reason(
            f"{name} models are not written as GGUF here", f"one of {', '.join(PRE_TOKENIZERS)}"
        )
        return
    attentions = [layer.attention for layer in architecture.layers]
    longest = architecture.max_positions
    if any(attention.window and longest and attention.window < longest for attention in attentions):
        yield Reason(
            f"has layers with a sliding window, which llama.cpp would not apply to a {name}",
            "--format onnx, or llama.cpp's own converter if it knows the model",
        )
    for kind in dict.fromkeys(a.rotary.form for a in attentions if a.rotary):
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
