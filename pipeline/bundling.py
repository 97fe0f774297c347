"""Writes the bundle of an artifact to a directory. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..checkpoints.outputs import LEDGER
from ..targets import load_target
from ..targets.bundle import make_bundle, write_bundle
from ..targets.options import BundleOptions

__all__ = ["ledger_of", "pack"]


def ledger_of(artifact: Path) -> Path:
    """The directory of an artifact's ledger: the run that made it, or else `runs/deploy-NAME`."""
    run = artifact.resolve().parent
    if (run / LEDGER).is_file():
        return run
    return Path("runs") / f"deploy-{artifact.resolve().name}"


def pack(artifact: Path, target: str, options: BundleOptions, out: Path) -> dict[str, Any]:
    """Write the bundle of an artifact to a directory, to be copied to a device by hand."""
    bundle = make_bundle(artifact, load_target(target), options)
    return {
        "output": str(write_bundle(bundle, out)),
        "version": bundle.id,
        "size_bytes": bundle.size,
        "engine": bundle.manifest["engine"],
    }
