"""A model on its way to a device: checked against its rules, bundled, deployed, and what was measured there entered in a ledger."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..checkpoints.config import model_path, packing, read_config, resolve
from ..checkpoints.files import content_hash, read_provenance
from ..errors import UsageError
from ..targets import check, load_target
from ..targets.bundle import make_bundle, write_bundle
from ..targets.deploy import Deployment, deploy
from ..targets.edge_llm import check_checkpoint, commands
from ..targets.graph_rules import graph_violations, parser_violations
from ..targets.options import BundleOptions, DeployOptions
from ..targets.remote import Address
from ..targets.rules import FOR_TENSORRT
from .ledger import Ledger, fingerprint

__all__ = ["deliver", "pack", "verdict"]


def verdict(
    model: str,
    target: str,
    format: str,
    precision: str | None,
    context: int,
    batch: int,
    jetpack: str | None,
) -> dict[str, Any]:
    """What a device cannot do with a model, and for `edge-llm` what to type where it can.

    Args:
        model: directory or hub id; of a quantized one, packing and weights count, and of an artifact the nodes of its graph.
        target: name or profile of the device.
        format: one of the formats of `export`.
        precision: of the linear layers; by default what the checkpoint has.
        context: tokens in the KV cache.
        batch: sequences at a time.
        jetpack: the release on the device, where it is known.
    """
    path, device = resolve(model_path(model)), load_target(target)
    config = read_config(path)
    bits, group, sym = packing(config) or (0, 128, True)
    graph = path / "model.onnx"
    made = read_provenance(path) if graph.is_file() else {}
    format, packed = (
        made.get("format", format),
        {4: "int4", 8: "int8", 3: "int3", 2: "int2"}.get(bits, "fp16"),
    )
    at = precision or str(made.get("precision", packed)).removesuffix("-fp16").removesuffix("-a8")
    found = check(
        device,
        config,
        format=format,
        precision=at,
        group_size=group,
        sym=sym,
        context=context,
        prompt=min(context, 2048),
        batch=batch,
        jetpack=jetpack,
        opset=made.get("opset"),
        last_logits=made.get("cut", {}).get("last_logits", False),
    )
    if graph.is_file() and format in FOR_TENSORRT and (releases := device.releases(jetpack)):
        nodes = [*graph_violations(graph, releases), *(parser_violations(graph) or [])]
        elsewhere = (
            at == "int8-dynamic" and format != "tensorrt"
        )  # which is for ONNX Runtime, as a note above says
        found = [
            *found,
            *(
                replace(violation, severity="note") if elsewhere else violation
                for violation in nodes
            ),
        ]
    told: dict[str, Any] = {
        "model": model,
        "target": device.name,
        "format": format,
        "precision": at,
    }
    if format == "edge-llm":
        known = {violation.rule for violation in found if violation.severity == "refuse"}
        found = [*found, *(v for v in check_checkpoint(path, device) if v.rule not in known)]
        if not any(violation.severity == "refuse" for violation in found):
            told["commands"] = commands(
                path, device, prompt=min(1024, context // 2), context=context
            )
    return told | {"violations": [vars(violation) for violation in found]}


def pack(artifact: Path, target: str, options: BundleOptions, out: Path) -> dict[str, Any]:
    """Write the bundle of an artifact to a directory, to be carried to a device by hand."""
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
    ledger: Path | None,
) -> dict[str, Any]:
    """Deploy an artifact and enter what was measured in a ledger.

    Args:
        artifact: directory of an ONNX artifact.
        target: name or profile of the device.
        address: where it is.
        bundling: what the engine is for.
        options: what is done there.
        ledger: directory of the ledger; by default the run that the artifact is a step of, or else `runs/deploy-NAME`.

    Returns:
        The ledger's entry, and the directory it is in.
    """
    begin, device = time.monotonic(), load_target(target)
    bundle = make_bundle(artifact, device, bundling)
    done = deploy(bundle, artifact, device, address, options)
    folder = ledger or _ledger_of(artifact)
    entry = _entry(artifact, device.name, address, bundling, options, done) | {
        "seconds": round(time.monotonic() - begin, 2)
    }
    _record(folder, entry)
    return {"ledger": str(folder / "ledger.json"), **entry}


def _ledger_of(artifact: Path) -> Path:
    run = artifact.resolve().parent
    return (
        run
        if (run / "ledger.json").is_file()
        else Path("runs") / f"deploy-{artifact.resolve().name}"
    )


def _entry(
    artifact: Path,
    target: str,
    address: Address,
    bundling: BundleOptions,
    options: DeployOptions,
    done: Deployment,
) -> dict[str, Any]:
    config = {
        "artifact": artifact.resolve().name,
        "target": target,
        "host": str(address),
        **vars(bundling),
        **vars(options),
    }
    fields = {
        "config": config,
        "inputs": {artifact.resolve().name: content_hash(artifact)},
        "device": done.device,
    }
    return {
        "name": f"{artifact.resolve().name}@{target}",
        "kind": "deploy",
        "config": config,
        "fingerprint": fingerprint(fields),
        "depends_on": fields,
        "output": artifact.resolve().name,
        "metrics": done.metrics,
        "notes": done.notes,
        "details": done.details,
        "context": {
            "backend": "onnxruntime",
            "version": done.version,
            "copied_bytes": done.copied_bytes,
            **done.device,
        },
        "samples": "",
    }


def _record(folder: Path, entry: dict[str, Any]) -> None:
    ledger = Ledger.load(folder)
    if not ledger.path.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"{folder}: no ledger can be kept there: {error.strerror}", "give another --ledger"
            ) from error
        ledger.begin({"name": folder.name}, "edgewright deploy")
    ledger.put(
        entry,
        [*(s["name"] for s in ledger.data["steps"] if s["name"] != entry["name"]), entry["name"]],
    )
