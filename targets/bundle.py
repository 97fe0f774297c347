"""A bundle: an artifact with everything a device needs to verify, run, measure and build an engine of it, without edgewright there.

    bundle.json        every file with its checksum, what the engine is for, and tokens generated here to compare with
    run.sh             verify | check | generate | build | bench | probe
    build_engine.sh    run.sh build, under the name people look for
    model/             the artifact
    lib/edgewright/    the few modules that need numpy and onnxruntime only, as they are in this package

Its id is a hash of what is in it, so that the same artifact gives the same bundle, and a device knows whether it has it already.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto

from .. import __version__
from ..checkpoints.config import end_tokens
from ..checkpoints.files import PROVENANCE, atomic_directory, file_hash
from ..errors import Refused, UsageError
from ..export.onnx.precision import precision_of
from ..export.onnx.runtime import MODEL, OnnxDecoder
from ..export.tensorrt.engine import EngineSpec, spec_block
from ..models.footprint import kv_size
from .options import BundleOptions
from .profile import Target, usable_bytes

__all__ = ["Bundle", "make_bundle", "write_bundle"]

ROOT = Path(__file__).parents[1]
MANIFEST = "bundle.json"
LIBRARY = (
    "__init__.py",
    "errors.py",
    "export/__init__.py",
    "export/onnx/__init__.py",
    "export/onnx/runtime.py",
    "export/onnx/sampling.py",
    "export/tensorrt/__init__.py",
    "export/tensorrt/engine.py",
    "benchmarks/__init__.py",
    "benchmarks/latency/__init__.py",
    "benchmarks/latency/energy.py",
    "benchmarks/latency/worker.py",
    "targets/device/__init__.py",
    "targets/device/probe.py",
    "targets/device/run.py",
)
EMPTY = ("targets/__init__.py",)
"""The package's own imports pydantic, which a device need not have."""
CHECK_PROMPTS, CHECK_PROMPT_TOKENS, CHECK_NEW_TOKENS = 2, 16, 24
WORKSPACE_SHARE, LEAST_WORKSPACE_MIB = 0.25, 256
SCRIPT = """#!/bin/sh
# {about}
# Needs python3 (3.10 or later) with numpy and onnxruntime; PYTHON names another interpreter.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
PYTHONDONTWRITEBYTECODE=1 PYTHONPATH="$here/lib" exec "${{PYTHON:-python3}}" -m edgewright.targets.device.run {arguments}
"""
SCRIPTS = {
    "run.sh": SCRIPT.format(
        about="verify | check | generate | build | bench | probe; --help says more.",
        arguments='"$@"',
    ),
    "build_engine.sh": SCRIPT.format(
        about="Build the TensorRT engine on this device; an engine is never copied.",
        arguments="build",
    ),
}


@dataclass(frozen=True)
class Bundle:
    """A bundle that is not written anywhere yet: large files stay where they are until they are copied.

    Attributes:
        name: of the artifact.
        id: hash of the contents, 16 hexadecimal digits.
        files: by path in the bundle, a file of this machine or the bytes themselves.
        manifest: what `bundle.json` says; it is among the files.
    """

    name: str
    id: str
    files: dict[str, Path | bytes]
    manifest: dict[str, Any]

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(told["size"] for told in self.manifest["files"].values())


def make_bundle(artifact: Path, target: Target, options: BundleOptions | None = None) -> Bundle:
    """Gather what a device needs to run an artifact.

    Raises:
        UsageError: `artifact` is no ONNX artifact of edgewright's.
        Refused: the context leaves no memory for it on the target, or is too short for the prompt.
    """
    if not (artifact / MODEL).is_file() or not (artifact / PROVENANCE).is_file():
        raise UsageError(
            f"{artifact}: no artifact",
            "make one: edgewright export MODEL --format onnx --precision int4 --out DIR",
        )
    provenance, config = (
        json.loads((artifact / name).read_text()) for name in (PROVENANCE, "config.json")
    )
    files: dict[str, Path | bytes] = {
        f"model/{p.relative_to(artifact).as_posix()}": p
        for p in sorted(artifact.rglob("*"))
        if p.is_file()
    }
    files |= {f"lib/edgewright/{name}": ROOT / name for name in LIBRARY}
    files |= {f"lib/edgewright/{name}": b"" for name in EMPTY}
    files |= {name: text.encode() for name, text in SCRIPTS.items()}
    sums = {
        name: {
            "size": len(_bytes(c)) if isinstance(c, bytes) else c.stat().st_size,
            "sha256": _sha256(c),
        }
        for name, c in files.items()
    }
    manifest = {
        "edgewright": __version__,
        "artifact": artifact.name,
        "target": target.name,
        "precision": provenance["precision"],
        "opset": provenance["opset"],
        "eos_ids": end_tokens(artifact),
        "tie": precision_of(provenance["precision"]).limits.tie,
        "engine": spec_block(
            _engine(artifact, target, provenance, config, options or BundleOptions())
        ),
        "check": _check_rows(artifact, int(config["vocab_size"])),
        "files": sums,
    }
    identity = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()[:16]
    manifest["id"] = identity
    files[MANIFEST] = (json.dumps(manifest, indent=2) + "\n").encode()
    return Bundle(artifact.name, identity, files, manifest)


def _bytes(content: Path | bytes) -> bytes:
    return content if isinstance(content, bytes) else content.read_bytes()


def _sha256(content: Path | bytes) -> str:
    return hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else file_hash(content)


def _engine(
    artifact: Path,
    target: Target,
    provenance: Mapping[str, Any],
    config: Mapping[str, Any],
    options: BundleOptions,
) -> EngineSpec:
    """What the engine is for, with a workspace out of the memory that weights and cache leave."""
    shape = provenance["shape"]
    weights = sum(p.stat().st_size for p in artifact.glob(f"{MODEL}*"))
    element = 2 if precision_of(provenance["precision"]).activations == TensorProto.FLOAT16 else 4
    left = (
        usable_bytes(target)
        - weights
        - kv_size(config, options.context, options.batch, element_bytes=element)
    )
    if left < LEAST_WORKSPACE_MIB << 20:
        raise Refused(
            f"{artifact.name}: {weights / 1e9:.2f} GB of weights and a context of {options.context} leave {max(left, 0) / 1e9:.2f} GB of "
            f"{target.name}'s memory, too little to build or run in",
            "a shorter --context, or a lower --precision",
        )
    workspace = max(LEAST_WORKSPACE_MIB, int(left * WORKSPACE_SHARE) >> 20)
    limit = target.largest_buffer()
    if limit is not None:
        workspace = min(workspace, limit >> 20)
    return EngineSpec(
        int(shape["num_hidden_layers"]),
        int(shape["num_key_value_heads"]),
        int(shape["head_dim"]),
        options.prompt,
        options.context,
        options.batch,
        workspace,
        provenance.get("sparsity") == "2:4",
    )


def _check_rows(artifact: Path, vocab: int) -> list[dict[str, list[int]]]:
    """Prompts of fixed random tokens with what ONNX Runtime continues them with on this machine."""
    generator, decoder = np.random.default_rng(0), OnnxDecoder(artifact, threads=1)
    rows: list[dict[str, list[int]]] = []
    for _ in range(CHECK_PROMPTS):
        ids = generator.integers(0, vocab, (1, CHECK_PROMPT_TOKENS))
        tokens = decoder.generate(ids, np.ones_like(ids), CHECK_NEW_TOKENS, ())
        rows.append({"ids": ids[0].tolist(), "tokens": tokens[0].tolist()})
    return rows


def write_bundle(bundle: Bundle, out: Path) -> Path:
    """Write a bundle to a directory, whole or not at all."""
    with atomic_directory(out) as folder:
        for name, content in bundle.files.items():
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(_bytes(content))
            if name in SCRIPTS:
                file.chmod(0o755)
        # What makes the directory one of edgewright's, which the next bundle may replace.
        (folder / PROVENANCE).write_text(
            json.dumps({"edgewright": __version__, "kind": "bundle", "id": bundle.id}) + "\n"
        )
    return out
