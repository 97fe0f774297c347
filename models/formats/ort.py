"""ONNX with ONNX Runtime's own fused operators, which no other runtime reads."""

from __future__ import annotations

from ..export_format import ExportFormat
from ..graph_limits import graph_reasons

FORMAT = ExportFormat(
    name="ort",
    description="ONNX with ONNX Runtime's own operators",
    writer="edgewright.export.onnx.writer:write",
    precisions=("fp32", "fp16", "int4", "int4-a8", "int8-dynamic"),
    runtimes=("onnxruntime",),
    platforms=("jetson", "cpu"),
    reasons=graph_reasons,
    position=2,
    int8_cache=True,
    last_logits=True,
    packs_head=("int4", "int4-a8"),
    zero_points=True,
    int4_method="mixed",
    measured_by="onnxruntime",
)
