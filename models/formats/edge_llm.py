"""A checkpoint, with scripts, for the exporter and builder of TensorRT-Edge-LLM."""

from __future__ import annotations

from ..export_format import ExportFormat

FORMAT = ExportFormat(
    name="edge-llm",
    description="what TensorRT-Edge-LLM's exporter reads",
    writer="edgewright.targets.edge_llm_package:write",
    precisions=("fp16", "int8", "int4"),
    runtimes=("edge-llm",),
    platforms=("jetson",),
    position=4,
    device_rules="edgewright.targets.edge_llm_rules:edge_llm_violations",
)
