"""Pack an artifact into a bundle: a directory that a device can run without installing edgewright.

    bundle.json        all files with checksums, the engine's settings, and expected tokens
    run.sh             verify | check | generate | answer | build | bench | probe | llama-server
    build_engine.sh    the same as `run.sh build`
    model/             the artifact
    lib/edgewright/    the modules of this package that need only numpy, and onnxruntime or tensorrt

A GGUF file is bundled in the same way; its run.sh can verify, probe and start llama-server.

The device uses the checksums to find damaged files. It generates the expected tokens again to
check that it computes the same results as the machine that made the bundle.

The bundle's id is a hash of its contents. The same artifact always gives the same id, so a
device can tell whether it already has this version.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto

from .. import __version__
from ..checkpoints.config import end_tokens, read_architecture
from ..checkpoints.directories import atomic_directory
from ..checkpoints.hashing import PROVENANCE, file_hash, read_provenance, write_provenance
from ..errors import Refused, UsageError
from ..export.onnx.precision import precision_of
from ..export.onnx.runtime import MODEL, OnnxDecoder
from ..export.tensorrt.engine import EngineSpec, spec_block
from ..models import Architecture
from ..models.formats.gguf import MODEL as GGUF
from ..models.kv_cache import element_bytes
from .artifact_files import artifact_files, artifact_name
from .device.manifest import MANIFEST, identity
from .options import BundleOptions
from .profile import Target, usable_bytes

__all__ = ["GGUF", "Bundle", "make_bundle", "write_bundle"]

ROOT = Path(__file__).parents[1]
# Modules that run on the device. They may import only each other, numpy, onnxruntime and tensorrt.
LIBRARY = (
    "__init__.py",
    "errors.py",
    "export/__init__.py",
    "export/gguf/__init__.py",
    "export/gguf/server.py",
    "export/onnx/__init__.py",
    "export/onnx/on_provider.py",
    "export/onnx/runtime.py",
    "export/onnx/sampling.py",
    "export/onnx/token_loop.py",
    "export/tensorrt/__init__.py",
    "export/tensorrt/build_memory.py",
    "export/tensorrt/engine.py",
    "benchmarks/__init__.py",
    "benchmarks/latency/__init__.py",
    "benchmarks/latency/energy.py",
    "benchmarks/latency/worker.py",
    "targets/device/__init__.py",
    "targets/device/answer.py",
    "targets/device/bench.py",
    "targets/device/cuda.py",
    "targets/device/decoders.py",
    "targets/device/engine.py",
    "targets/device/engine_cache.py",
    "targets/device/engine_decoder.py",
    "targets/device/engine_session.py",
    "targets/device/lines.py",
    "targets/device/llama_server.py",
    "targets/device/manifest.py",
    "targets/device/modules.py",
    "targets/device/probe.py",
    "targets/device/run.py",
)
# Written as empty files: the real ones import pydantic, which a device may not have.
EMPTY_MODULES = ("targets/__init__.py",)
CHECK_PROMPTS = 2
CHECK_PROMPT_TOKENS = 16
CHECK_NEW_TOKENS = 24
# Share of the free memory that TensorRT may use as scratch space ("workspace") during a build.
WORKSPACE_SHARE = 0.25
MIN_WORKSPACE_MIB = 256
SCRIPT = """#!/bin/sh
# {about}
# Needs python3 (3.10 or later) with numpy, and onnxruntime or tensorrt; PYTHON names another one.
set -eu
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
case $here in *:*) echo "$here: Python cannot import from a path with a colon" >&2; exit 2;; esac
case ${{PYTHON:=python3}} in /*) ;; */*) PYTHON=$PWD/$PYTHON ;; esac
cd -- "$here"  # so that Python imports nothing from where the script was called
export PYTHONDONTWRITEBYTECODE=1 PYTHONPATH="$here/lib"
exec "$PYTHON" -m edgewright.targets.device.run {arguments}
"""
BUILD = "build_engine.sh"
SCRIPTS = {
    "run.sh": SCRIPT.format(
        about="Usage: run.sh VERB; run.sh --help explains the verbs.",
        arguments='"$@"',
    ),
    BUILD: SCRIPT.format(
        about="Build the TensorRT engine on this device. Engines cannot be copied between devices.",
        arguments="build",
    ),
}


@dataclass(frozen=True)
class Bundle:
    """The contents of a bundle, before they are written to a directory.

    Large files are not read into memory. They are copied from where they are.

    Attributes:
        name: name of the artifact.
        id: hash of the contents, 16 hexadecimal digits.
        files: path in the bundle -> a file on this machine, or the bytes of a small file.
        manifest: the contents of `bundle.json`; `files` contains it too.
    """

    name: str
    id: str
    files: dict[str, Path | bytes]
    manifest: dict[str, Any]

    @property
    def size(self) -> int:
        """Total size in bytes."""
        return sum(entry["size"] for entry in self.manifest["files"].values())

    @property
    def model_bytes(self) -> int:
        """Size of the model's own files: graph and weights, or the GGUF file."""
        files = self.manifest["files"].items()
        own = (f"model/{MODEL}", f"model/{GGUF}")
        return sum(entry["size"] for name, entry in files if name.startswith(own))


def make_bundle(artifact: Path, target: Target, options: BundleOptions | None = None) -> Bundle:
    """Collect everything that a device needs to run an artifact.

    Raises:
        UsageError: `artifact` is not a directory that `edgewright export` wrote, or a link in it
            points outside.
        Refused: the weights and this context leave too little memory on the target, or the
            context is too short for the prompt.
    """
    is_gguf = (artifact / GGUF).is_file()
    if not (is_gguf or (artifact / MODEL).is_file()) or not (artifact / PROVENANCE).exists():
        raise UsageError(
            f"{artifact}: not an artifact of edgewright",
            "make one with: edgewright export MODEL --format onnx --precision int4 --out DIR",
        )
    name = artifact_name(artifact)
    options = options or BundleOptions()
    files: dict[str, Path | bytes] = {
        f"model/{path}": file for path, file in artifact_files(artifact).items()
    }
    describe = _gguf_content if is_gguf else _onnx_content
    content = describe(artifact, target, options)
    files |= {f"lib/edgewright/{path}": ROOT / path for path in LIBRARY}
    files |= {f"lib/edgewright/{path}": b"" for path in EMPTY_MODULES}
    scripts = SCRIPTS.keys() - ({BUILD} if is_gguf else set())  # llama.cpp builds no engine
    files |= {path: SCRIPTS[path].encode() for path in sorted(scripts)}
    checksums = {
        path: {
            "size": len(c) if isinstance(c, bytes) else c.stat().st_size,
            "sha256": _sha256(c),
        }
        for path, c in files.items()
    }
    head = {"edgewright": __version__, "artifact": name, "target": target.name}
    manifest = head | content | {"files": checksums}
    manifest["id"] = identity(manifest)
    files[MANIFEST] = (json.dumps(manifest, indent=2) + "\n").encode()
    return Bundle(name, manifest["id"], files, manifest)


def _onnx_content(artifact: Path, target: Target, options: BundleOptions) -> dict[str, Any]:
    """What the manifest says of an ONNX artifact."""
    provenance = read_provenance(artifact, ("precision", "opset", "shape"))
    model = read_architecture(artifact)
    return {
        "format": provenance.get("format", "onnx"),
        "precision": provenance["precision"],
        "opset": provenance["opset"],
        "kv_cache": provenance.get("kv_cache", "float"),
        "eos_ids": end_tokens(artifact),
        "tie": precision_of(provenance["precision"]).limits.tie,
        "engine": spec_block(_engine_spec(artifact, target, provenance, model, options)),
        "check": _expected_tokens(artifact, model.vocab_size),
    }


def _gguf_content(artifact: Path, target: Target, options: BundleOptions) -> dict[str, Any]:
    """What the manifest says of a GGUF artifact. llama.cpp's server needs no more than the file."""
    provenance = read_provenance(artifact, ("precision",))
    weights = (artifact / GGUF).stat().st_size
    if weights > usable_bytes(target):
        raise Refused(
            f"{artifact.name}: {weights / 1e9:.2f} GB of weights do not fit into the memory of "
            f"{target.name}",
            "use a lower --precision",
        )
    return {
        "format": "gguf",
        "precision": provenance["precision"],
        "opset": None,
        "engine": options.model_dump(),
    }


def _sha256(content: Path | bytes) -> str:
    return hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else file_hash(content)


def _engine_spec(
    artifact: Path,
    target: Target,
    provenance: Mapping[str, Any],
    model: Architecture,
    options: BundleOptions,
) -> EngineSpec:
    """Settings of the engine. Its workspace comes from the memory that weights and cache leave."""
    shape = provenance["shape"]
    weights = sum(p.stat().st_size for p in artifact.glob(f"{MODEL}*"))
    floats = 2 if precision_of(provenance["precision"]).activations == TensorProto.FLOAT16 else 4
    element = element_bytes(provenance.get("kv_cache", "float"), floats)
    cache = model.state_bytes(options.context, options.batch, element_bytes=element, whole=True)
    left = usable_bytes(target) - weights - cache
    if left < MIN_WORKSPACE_MIB << 20:
        raise Refused(
            f"{artifact.name}: {weights / 1e9:.2f} GB of weights and a context of "
            f"{options.context} tokens leave {max(left, 0) / 1e9:.2f} GB of memory on "
            f"{target.name}, too little to build or run an engine",
            "use a shorter --context or a lower --precision",
        )
    workspace = max(MIN_WORKSPACE_MIB, int(left * WORKSPACE_SHARE) >> 20)
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
        any(0 < layer.attention.window < options.context for layer in model.layers),
    )


def _expected_tokens(artifact: Path, vocab: int) -> list[dict[str, list[int]]]:
    """Random prompts (fixed seed), each with the tokens that ONNX Runtime generates here."""
    generator = np.random.default_rng(0)
    decoder = OnnxDecoder(artifact, threads=1)
    rows: list[dict[str, list[int]]] = []
    for _ in range(CHECK_PROMPTS):
        ids = generator.integers(0, vocab, (1, CHECK_PROMPT_TOKENS))
        tokens = decoder.generate(ids, np.ones_like(ids), CHECK_NEW_TOKENS, ())
        rows.append({"ids": ids[0].tolist(), "tokens": tokens[0].tolist()})
    return rows


def write_bundle(bundle: Bundle, out: Path) -> Path:
    """Write a bundle to a directory. If writing fails, no directory is left behind."""
    with atomic_directory(out, bundle.size) as folder:
        for name, content in bundle.files.items():
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                file.write_bytes(content)
            else:
                shutil.copyfile(content, file)
            if name in SCRIPTS:
                file.chmod(0o755)
        # Marks the directory as written by edgewright, so that a later bundle may replace it.
        write_provenance(folder, {"edgewright": __version__, "kind": "bundle", "id": bundle.id})
    return out
