"""Build a bundle's TensorRT engine on the device, find it, and measure it with trtexec."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...errors import EdgewrightError, Refused, UsageError
from ...export.tensorrt.build_memory import too_little_memory
from ...export.tensorrt.engine import (
    PHASES,
    EngineSpec,
    build_command,
    build_with,
    profile_shapes,
    read_spec,
    run_command,
    version_of,
)
from .manifest import MANIFEST, read_manifest, sha256
from .modules import tensorrt_module
from .probe import probe

__all__ = ["ENGINE", "build", "built_engine", "time_engine"]

ENGINE = Path("engine") / "model.engine"
STAMP = Path("engine") / "built-with.json"
TIMING = ".timing"
"""Folder of timing caches, beside the artifacts of a device: all their versions share it."""
LOG_TAIL = 30
NO_TRTEXEC = "trtexec is not on this device, and neither is the Python module tensorrt"
NO_TRTEXEC_HINT = (
    "sudo apt install nvidia-jetpack (it installs /usr/src/tensorrt/bin/trtexec), or deploy "
    "without an engine: --no-engine"
)


def build(bundle: Path, *, force: bool = False) -> dict[str, Any]:
    """Build the TensorRT engine on this device, or reuse it if it is up to date.

    An engine is up to date if the same TensorRT built it on the same board from the same bundle.
    trtexec builds it, or TensorRT's Python API if there is no trtexec.

    Args:
        bundle: directory of the bundle.
        force: build although the memory is too little by prediction.

    Returns:
        `engine` (its path), `reused`, `seconds` and `bytes`.

    Raises:
        EdgewrightError: TensorRT is not installed, or the build failed. `engine/build.log` has
            the output of trtexec.
        Refused: this TensorRT cannot read the artifact, or the memory is too little.
    """
    device = probe(str(bundle))
    engine = bundle / ENGINE
    engine.parent.mkdir(exist_ok=True)
    manifest = read_manifest(bundle)
    built_with = _maker(device) | {"spec": manifest["engine"], "id": manifest["id"]}
    if _is_built(engine, bundle / STAMP, built_with):
        return _built(engine, 0.0, reused=True)
    weights = sum(file.stat().st_size for file in (bundle / "model").glob("model.onnx*"))
    problem = None if force else too_little_memory(weights, device["memory"])
    if problem:
        raise Refused(*problem)
    begin = time.monotonic()
    partial = engine.with_suffix(".partial")
    _build_to(partial, bundle, device)
    partial.replace(engine)
    (bundle / STAMP).write_text(json.dumps({**built_with, "sha256": sha256(engine)}))
    return _built(engine, round(time.monotonic() - begin, 1), reused=False)


def _maker(device: dict[str, Any]) -> dict[str, str]:
    """What an engine is tied to: the TensorRT and the board."""
    packages = device["packages"]
    version = device["tensorrt"] or packages["tensorrt"] or packages["tensorrt_rtx"]
    return {"tensorrt": version or "unknown", "board": device["board"] or "an unknown board"}


def built_engine(bundle: Path) -> Path:
    """The engine of a bundle, which was built by this TensorRT on this board.

    Raises:
        UsageError: there is none, or it was built elsewhere.
    """
    engine = bundle / ENGINE
    built: list[str] = []
    with suppress(OSError, ValueError, LookupError, TypeError, RecursionError):
        stamp = json.loads((bundle / STAMP).read_text())
        built = [str(stamp[key]) for key in ("tensorrt", "board")]
    if not built or not engine.is_file():
        raise UsageError(f"{engine}: no engine was built there", "build it with run.sh build")
    here = list(_maker(probe(str(bundle))).values())
    if built != here:
        raise UsageError(
            f"{engine}: built by TensorRT {' on '.join(built)}, and this is TensorRT "
            f"{' on '.join(here)}",
            "an engine runs only where it was built: build it here with run.sh build",
        )
    return engine


def _is_built(engine: Path, stamp: Path, built_with: dict[str, Any]) -> bool:
    """Whether the engine is the one that was built with this, and both files are undamaged."""
    try:
        recorded = json.loads(stamp.read_text())
        return recorded == {**built_with, "sha256": sha256(engine)}
    except (OSError, ValueError, RecursionError):
        return False


def _built(engine: Path, seconds: float, *, reused: bool) -> dict[str, Any]:
    return {
        "engine": str(engine),
        "reused": reused,
        "seconds": seconds,
        "bytes": engine.stat().st_size,
    }


def _build_to(file: Path, bundle: Path, device: dict[str, Any]) -> None:
    spec = read_spec(bundle / MANIFEST)
    model = bundle / "model" / "model.onnx"
    cache = _timing_cache(bundle, device)
    if device["trtexec"] and device["tensorrt"]:
        version = version_of(device["tensorrt"])
        command = build_command(device["trtexec"], version, spec, model, file, cache)
        _run(command, file.parent / "build.log")
        return
    trt = tensorrt_module()
    if trt is None:
        raise EdgewrightError(NO_TRTEXEC, NO_TRTEXEC_HINT)
    file.write_bytes(build_with(trt, spec, model, cache=cache))


def _timing_cache(bundle: Path, device: dict[str, Any]) -> Path:
    """The file of kernel times of this TensorRT on this board.

    What was timed for one version of an artifact need not be timed for the next. A bundle that was
    not deployed has a file of its own.
    """
    place = bundle.resolve()
    folder = place.parents[2] / TIMING if place.parent.name == "versions" else place / "engine"
    folder.mkdir(exist_ok=True)
    maker = "-".join(_maker(device).values())
    return folder / f"{re.sub('[^A-Za-z0-9.]+', '-', maker)}.cache"


def _run(command: Sequence[str], log: Path) -> str:
    """Run a command and write its output to `log`; returns the output."""
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    log.write_text(done.stdout)
    if done.returncode:
        tail = "\n".join(done.stdout.splitlines()[-LOG_TAIL:])
        raise EdgewrightError(
            f"{Path(command[0]).name} failed with exit code {done.returncode}:\n{tail}",
            f"read its whole output in {log}",
        )
    return done.stdout


def time_engine(bundle: Path, device: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Measure the engine with trtexec, once for each phase.

    Args:
        bundle: directory of the bundle; its engine has been built.
        device: the output of `probe`.

    Returns:
        Phase (`prefill`, `decode`) -> `log`, `times` and `profile`, as the text that trtexec
        wrote. Empty if there is no trtexec.
    """
    if not device["trtexec"]:
        return {}
    folder = (bundle / ENGINE).parent
    spec = read_spec(bundle / MANIFEST)
    version = version_of(device["tensorrt"])
    vocab = int(json.loads((bundle / "model" / "config.json").read_text())["vocab_size"])
    outputs: dict[str, dict[str, str]] = {}
    for phase in PHASES:
        inputs = _inputs(folder, phase, spec, vocab)
        command = run_command(
            device["trtexec"], version, spec, bundle / ENGINE, phase, inputs, folder
        )
        outputs[phase] = {"log": _run(command, folder / f"{phase}.log")}
        outputs[phase] |= {
            kind: (folder / f"{phase}-{kind}.json").read_text(errors="replace")
            for kind in ("times", "profile")
        }
    return outputs


def _inputs(folder: Path, phase: str, spec: EngineSpec, vocab: int) -> dict[str, Path]:
    """Write the input tensors of a phase as raw int64 files, the format that trtexec reads.

    The engine's shapes always have a past of at least one token. In the prefill phase the mask
    hides that token, which is the same as an empty past.
    """
    import numpy as np  # here, because `build` needs no numpy

    _, typical, most = profile_shapes(spec, phase)
    shapes = typical if phase == "prefill" else most
    new = shapes["input_ids"][1]
    total = shapes["attention_mask"][1]
    mask = np.ones((spec.batch, total), np.int64)
    if phase == "prefill":
        mask[:, 0] = 0
    arrays = {
        "input_ids": (np.arange(new) * 7 + 11) % vocab * np.ones((spec.batch, 1), np.int64),
        "attention_mask": mask,
        "position_ids": np.maximum(mask.cumsum(1) - 1, 0)[:, -new:],
    }
    files: dict[str, Path] = {}
    for name, array in arrays.items():
        files[name] = folder / f"{phase}-{name}.bin"
        files[name].write_bytes(np.ascontiguousarray(array, np.int64).tobytes())
    return files
