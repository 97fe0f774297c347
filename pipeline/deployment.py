"""Delivers an artifact to a device: bundles it, deploys it, and records what was measured."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..checkpoints.hashing import content_hash
from ..checkpoints.outputs import LEDGER
from ..errors import UsageError
from ..targets import load_target
from ..targets.address import Address
from ..targets.bundle import make_bundle
from ..targets.deploy import deploy
from ..targets.deploy_job import Deployment, conditions
from ..targets.options import AcceptanceOptions, BundleOptions, DeployOptions
from .acceptance import Yardstick, acceptance_of, runtime_of
from .fingerprint import fingerprint
from .ledger import Ledger
from .measured import write_samples

__all__ = ["deliver"]


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
    return {"ledger": str(ledger / LEDGER), **entry}


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
