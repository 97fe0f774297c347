"""A model repository for Triton Inference Server, around the graph of format `onnx`."""

from __future__ import annotations

from ..export_format import ExportFormat
from ..graph_limits import graph_reasons

FORMAT = ExportFormat(
    name="triton",
    description="as onnx, in a Triton model repository",
    writer="edgewright.export.triton.repository:write",
    precisions=("fp32", "fp16", "int8", "int4", "int8-dynamic"),
    runtimes=("onnxruntime", "tensorrt"),
    platforms=("jetson", "cpu"),
    reasons=graph_reasons,
    position=6,
)
