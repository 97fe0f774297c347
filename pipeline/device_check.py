"""Says what a device cannot do with a model, by its rules and by what its TensorRT can import.

Imports no torch: only the integers of a packed checkpoint need it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..checkpoints.config import (
    model_path,
    packing,
    quantization,
    read_architecture,
    read_config,
    resolve,
)
from ..checkpoints.hashing import read_provenance
from ..models import FORMATS
from ..models.formats.onnx import MODEL as GRAPH
from ..targets import ArtifactSpec, Workload, check, load_target
from ..targets.edge_llm import check_checkpoint, commands
from ..targets.options import CheckOptions
from ..targets.platform_profile import JetPack
from ..targets.violation import Violation

__all__ = ["verdict"]

PACKED = {2: "int2", 3: "int3", 4: "int4", 8: "int8"}
"""Precision by the bits of a packed weight."""


def verdict(model: str, target: str, format: str, options: CheckOptions) -> dict[str, Any]:
    """What a device cannot do with a model, and for `edge-llm` the commands to type.

    Args:
        model: directory or hub id. Of a quantized model the packed weights are checked as well, of
            an artifact the nodes of its graph.
        target: name or profile of the device.
        format: one of the formats of `export`.
        options: how the device is to use it.
    """
    context = options.context
    path = resolve(model_path(model), config_only=True)
    if format == "edge-llm" or quantization(read_config(path)):
        path = resolve(model_path(model))  # the stored tensors are checked as well
    device = load_target(target)
    spec, stored = _stored(path, format, options.precision)
    at = stored.precision
    workload = replace(
        stored,
        context=context,
        prompt=min(context, 2048),
        batch=options.batch,
        kv_cache=options.kv_cache or stored.kv_cache,
        whole_cache=FORMATS[spec.format].is_graph,
    )
    found = check(device, read_architecture(path), workload, spec, options.jetpack)
    graph = path / GRAPH
    if graph.is_file() and "tensorrt" in FORMATS[spec.format].runtimes:
        releases = device.releases(options.jetpack)
        found = [*found, *_graph_violations(graph, releases, spec.format, at)]
    result: dict[str, Any] = {
        "model": model,
        "target": device.name,
        "format": spec.format,
        "precision": at,
    }
    if spec.format == "edge-llm":
        known = {violation.rule for violation in found if violation.severity == "refuse"}
        found = [*found, *(v for v in check_checkpoint(path, device) if v.rule not in known)]
        if not any(violation.severity == "refuse" for violation in found):
            prompt = min(1024, context // 2)
            result["commands"] = commands(path, device, prompt=prompt, context=context)
    return result | {"violations": [vars(violation) for violation in found]}


def _stored(path: Path, format: str, precision: str | None) -> tuple[ArtifactSpec, Workload]:
    """How a checkpoint or an artifact is exported and stored, for `check`."""
    bits, group_size, sym = packing(read_architecture(path).config) or (0, 128, True)
    made = read_provenance(path) if (path / GRAPH).is_file() else {}
    packed = PACKED.get(bits, "fp16")
    at = precision or str(made.get("precision", packed)).removesuffix("-fp16").removesuffix("-a8")
    spec = ArtifactSpec(
        made.get("format", format),
        sym=sym,
        opset=made.get("opset"),
        last_logits=made.get("cut", {}).get("last_logits", False),
    )
    return spec, Workload(at, group_size=group_size, kv_cache=made.get("kv_cache", "float"))


def _graph_violations(
    graph: Path, releases: Sequence[JetPack], format: str, precision: str
) -> list[Violation]:
    """Nodes of a graph that TensorRT on the device cannot run."""
    if not releases:
        return []
    from ..targets.graph_rules import graph_violations, parser_violations  # late: needs onnx

    nodes = [*graph_violations(graph, releases), *(parser_violations(graph) or [])]
    if precision == "int8-dynamic" and format != "tensorrt":
        # Such a graph runs in ONNX Runtime, not in TensorRT: these rules are notes only.
        return [replace(violation, severity="note") for violation in nodes]
    return nodes
