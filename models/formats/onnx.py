"""ONNX with standard operators: for ONNX Runtime, and for TensorRT on a device."""

from __future__ import annotations

from ..export_format import ExportFormat
from ..graph_limits import graph_reasons

MODEL = "model.onnx"
"""The graph of an artifact, also of the other formats that are graphs."""

FORMAT = ExportFormat(
    name="onnx",
    description="ONNX with standard operators only and a KV cache",
    writer="edgewright.export.onnx.writer:write",
    precisions=("fp32", "fp16", "bf16", "int8", "int4", "int8-dynamic"),
    runtimes=("onnxruntime", "tensorrt"),
    platforms=("jetson", "cpu"),
    reasons=graph_reasons,
    position=1,
    windowed=True,
    int8_cache=True,
    last_logits=True,
    zero_points=True,
    measured_by="onnxruntime",
)
