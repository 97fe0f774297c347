"""Delivers a model to a device: checks the rules, bundles, deploys, and records measurements."""

from __future__ import annotations

import time
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
from ..checkpoints.files import content_hash, read_provenance
from ..errors import UsageError
from ..models import FORMATS
from ..targets import ArtifactSpec, Workload, check, load_target
from ..targets.address import Address
from ..targets.bundle import make_bundle, write_bundle
from ..targets.deploy import deploy
from ..targets.deploy_job import Deployment, conditions
from ..targets.edge_llm import check_checkpoint, commands
from ..targets.graph_rules import graph_violations, parser_violations
from ..targets.options import AcceptanceOptions, BundleOptions, DeployOptions
from ..targets.platform_profile import JetPack
from ..targets.violation import Violation
from .acceptance import Yardstick, acceptance_of, runtime_of
from .fingerprint import fingerprint
from .ledger import Ledger
from .measured import write_samples

__all__ = ["deliver", "ledger_of", "pack", "verdict"]

PACKED = {2: "int2", 3: "int3", 4: "int4", 8: "int8"}
"""Precision by the bits of a packed weight."""


def verdict(
    model: str,
    target: str,
    format: str,
    precision: str | None,
    context: int,
    batch: int,
    jetpack: str | None,
) -> dict[str, Any]:
    """What a device cannot do with a model, and for `edge-llm` the commands to type.

    Args:
        model: directory or hub id. Of a quantized model the packed weights are checked as well, of
            an artifact the nodes of its graph.
        target: name or profile of the device.
        format: one of the formats of `export`.
        precision: of the linear layers; default: that of the checkpoint.
        context: tokens in the KV cache.
        batch: sequences at a time.
        jetpack: JetPack release of the device, if known.
    """
    path = resolve(model_path(model), config_only=True)
    if format == "edge-llm" or quantization(read_config(path)):
        path = resolve(model_path(model))  # the stored tensors are checked as well
    device = load_target(target)
    spec, at, group_size = _stored(path, format, precision)
    workload = Workload(at, context, min(context, 2048), batch, group_size)
    found = check(device, read_architecture(path), workload, spec, jetpack)
    graph = path / "model.onnx"
    if graph.is_file() and "tensorrt" in FORMATS[spec.format].runtimes:
        releases = device.releases(jetpack)
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


def _stored(path: Path, format: str, precision: str | None) -> tuple[ArtifactSpec, str, int]:
    """How a checkpoint or an artifact is stored: export, precision and group size for `check`."""
    bits, group_size, sym = packing(read_architecture(path).config) or (0, 128, True)
    made = read_provenance(path) if (path / "model.onnx").is_file() else {}
    packed = PACKED.get(bits, "fp16")
    at = precision or str(made.get("precision", packed)).removesuffix("-fp16").removesuffix("-a8")
    spec = ArtifactSpec(
        made.get("format", format),
        sym=sym,
        opset=made.get("opset"),
        last_logits=made.get("cut", {}).get("last_logits", False),
    )
    return spec, at, group_size


def _graph_violations(
    graph: Path, releases: Sequence[JetPack], format: str, precision: str
) -> list[Violation]:
    """Nodes of a graph that TensorRT on the device cannot run."""
    if not releases:
        return []
    nodes = [*graph_violations(graph, releases), *(parser_violations(graph) or [])]
    if precision == "int8-dynamic" and format != "tensorrt":
        # Such a graph runs in ONNX Runtime, not in TensorRT: these rules are notes only.
        return [replace(violation, severity="note") for violation in nodes]
    return nodes


def pack(artifact: Path, target: str, options: BundleOptions, out: Path) -> dict[str, Any]:
    """Write the bundle of an artifact to a directory, to be copied to a device by hand."""
    bundle = make_bundle(artifact, load_target(target), options)
    return {
        "output": str(write_bundle(bundle, out)),
        "version": bundle.id,
        "size_bytes": bundle.size,
        "engine": bundle.manifest["engine"],
    }


def deliver(
    artifact: Path,
    target: str,
    address: Address,
    bundling: BundleOptions,
    options: DeployOptions,
    accepting: AcceptanceOptions,
    yardstick: Yardstick,
    ledger: Path,
) -> dict[str, Any]:
    """Deploy an artifact and record in a ledger what the device measured, and the verdict.

    A rejected version is recorded too, as `NAME@TARGET-rejected`.

    Args:
        artifact: directory of an ONNX artifact.
        target: name or profile of the device.
        address: address of the device.
        bundling: options of the bundle.
        options: options of the deployment.
        accepting: what the version has to show.
        yardstick: what it is judged by.
        ledger: directory of the ledger.

    Returns:
        The entry in the ledger, and the path of the ledger.
    """
    begin = time.monotonic()
    device = load_target(target)
    bundle = make_bundle(artifact, device, bundling)
    runtime = runtime_of(artifact, options, bundling.context)
    acceptance, notes = acceptance_of(artifact, accepting, yardstick)
    done = deploy(bundle, artifact, device, address, options, runtime, acceptance)
    done = replace(done, notes=[*notes, *done.notes])
    entry = _entry(artifact, device.name, address, bundling, options, runtime.name, done) | {
        "seconds": round(time.monotonic() - begin, 2)
    }
    entry = _record(ledger, entry, done)
    return {"ledger": str(ledger / "ledger.json"), **entry}


def ledger_of(artifact: Path) -> Path:
    """The directory of an artifact's ledger: the run that made it, or else `runs/deploy-NAME`."""
    run = artifact.resolve().parent
    if (run / "ledger.json").is_file():
        return run
    return Path("runs") / f"deploy-{artifact.resolve().name}"


def _entry(
    artifact: Path,
    target: str,
    address: Address,
    bundling: BundleOptions,
    options: DeployOptions,
    runtime: str,
    done: Deployment,
) -> dict[str, Any]:
    config = {
        "artifact": artifact.resolve().name,
        "target": target,
        "host": str(address),
        **vars(bundling),
        **vars(options),
    }
    details = {key: value for key, value in done.details.items() if key != "latency"}
    fields = {
        "config": config,
        "inputs": {artifact.resolve().name: content_hash(artifact)},
        "device": done.device,
    }
    return {
        "name": f"{artifact.resolve().name}@{target}{'' if done.accepted else '-rejected'}",
        "kind": "deploy",
        "config": config,
        "fingerprint": fingerprint(fields),
        "depends_on": fields,
        "output": artifact.resolve().name,
        "metrics": done.metrics,
        "notes": done.notes,
        "details": details,
        "context": {
            "backend": runtime,
            "engine": vars(bundling),
            "version": done.version,
            "copied_bytes": done.copied_bytes,
            **done.context,
            **conditions(done, options.threads),
        },
        "gate": done.gate,
        "accepted": done.accepted,
        "samples": "",
    }


def _record(folder: Path, entry: dict[str, Any], done: Deployment) -> dict[str, Any]:
    """Put the entry at the end of the ledger, which is created if there is none; returns it."""
    ledger = Ledger.load(folder)
    if not ledger.path.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"{folder}: cannot write a ledger there: {error.strerror}", "give another --ledger"
            ) from error
        ledger.begin({"name": folder.name}, "edgewright deploy")
    if done.samples:
        entry |= write_samples(folder, entry["name"], done.samples, done.answers)
    others = [s["name"] for s in ledger.data["steps"] if s["name"] != entry["name"]]
    ledger.put(entry, [*others, entry["name"]])
    return entry
