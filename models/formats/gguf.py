"""GGUF, the file format of llama.cpp."""

from __future__ import annotations

from ..export_format import ExportFormat
from ..llama_cpp import llama_cpp_reasons

MODEL = "model.gguf"
"""The file of an artifact."""

FORMAT = ExportFormat(
    name="gguf",
    description="for llama.cpp",
    writer="edgewright.export.gguf.writer:write",
    precisions=("fp16", "int8", "int4"),
    runtimes=("llama.cpp",),
    platforms=("jetson", "cpu"),
    reasons=llama_cpp_reasons,
    rounds=("int8",),
    block=32,
    zero_points=True,
    int4_method="mixed",
    measured_by="llama.cpp",
    position=5,
)
