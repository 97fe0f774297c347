"""Rehearses a deployment on this machine: no device is reached."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..checkpoints.config import read_architecture
from ..errors import Refused, UsageError
from ..targets import load_target
from ..targets.bundle import GGUF, make_bundle, write_bundle
from ..targets.options import BundleOptions
from ..targets.rehearsal.rehearse import rehearse, rehearsed_releases

__all__ = ["refuse_faults", "rehearse_deployment"]


def rehearse_deployment(
    artifact: Path, target: str, options: BundleOptions, jetpack: str | None = None
) -> dict[str, Any]:
    """Run what a deployment would run on the device, with recorders for the device's tools.

    Args:
        artifact: directory of an ONNX artifact.
        target: name or profile of the device.
        options: options of the bundle.
        jetpack: the release to rehearse; None: the newest of each TensorRT that builds engines.

    Raises:
        UsageError: the target is no Jetson, or llama.cpp runs the artifact.
    """
    device = load_target(target)
    if device.platform.kind != "jetson":
        raise UsageError(
            f"{device.name}: only deployments to a Jetson are rehearsed",
            "give --target with the name of a Jetson",
        )
    if (artifact / GGUF).is_file():
        raise UsageError(
            f"{artifact}: a GGUF artifact has no engine build to rehearse",
            "give --out DIR to look at its bundle, or --host to deploy it",
        )
    bundle = make_bundle(artifact, device, options)
    model = read_architecture(artifact)
    found = []
    for release in rehearsed_releases(device, jetpack):
        with tempfile.TemporaryDirectory(prefix="edgewright-rehearsal-") as scratch:
            folder = write_bundle(bundle, Path(scratch) / "bundle")
            found.append(rehearse(bundle, folder, device, model, release).to_dict())
    return {"target": device.name, "version": bundle.id, "rehearsals": found}


def refuse_faults(result: Mapping[str, Any]) -> None:
    """Stop if a rehearsal found faults.

    Raises:
        Refused: with the faults of each release.
    """
    faults = [
        f"  JetPack {one['jetpack']}: {fault}"
        for one in result["rehearsals"]
        for fault in one["faults"]
    ]
    if faults:
        raise Refused(
            "this deployment would fail on the device:\n" + "\n".join(faults),
            "change the artifact, the options or the JetPack release, and rehearse again",
        )
