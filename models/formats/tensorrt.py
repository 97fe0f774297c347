"""ONNX as TensorRT builds engines from: fp16 around INT4 and INT8 layers."""

from __future__ import annotations

from ..export_format import ExportFormat
from ..graph_limits import graph_reasons

FORMAT = ExportFormat(
    name="tensorrt",
    description="as onnx, checked by TensorRT",
    writer="edgewright.export.tensorrt.writer:write",
    precisions=("fp32", "fp16", "bf16", "int8", "int4", "int8-dynamic"),
    runtimes=("tensorrt",),
    platforms=("jetson",),
    reasons=graph_reasons,
    position=3,
    windowed=True,
    int8_cache=True,
    last_logits=True,
    measured_by="onnxruntime",
    fp16_activations=True,
)
