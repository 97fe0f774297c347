"""Build a bundle's TensorRT engine on the device, and measure it with trtexec."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...errors import EdgewrightError
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
from .probe import probe

__all__ = ["ENGINE", "build", "time_engine"]

ENGINE = Path("engine") / "model.engine"
LOG_TAIL = 30
NO_TRTEXEC = "trtexec is not on this device, and neither is the Python module tensorrt"
NO_TRTEXEC_HINT = (
    "sudo apt install nvidia-jetpack (it installs /usr/src/tensorrt/bin/trtexec), or deploy "
    "without an engine: --no-engine"
)


def build(bundle: Path) -> dict[str, Any]:
    """Build the TensorRT engine on this device, or reuse it if it is up to date.

    An engine is up to date if the same TensorRT built it on the same board from the same bundle.
    trtexec builds it, or TensorRT's Python API if there is no trtexec.

    Returns:
        `engine` (its path), `reused`, `seconds` and `bytes`.

    Raises:
        EdgewrightError: TensorRT is not installed, or the build failed. `engine/build.log` has
            the output of trtexec.
        Refused: this TensorRT cannot read the artifact.
    """
    device = probe(str(bundle))
    engine = bundle / ENGINE
    engine.parent.mkdir(exist_ok=True)
    stamp = engine.parent / "built-with.json"
    manifest = read_manifest(bundle)
    built_with = {
        "tensorrt": device["tensorrt"],
        "board": device["board"],
        "spec": manifest["engine"],
        "id": manifest["id"],
    }
    if _is_built(engine, stamp, built_with):
        return _built(engine, 0.0, reused=True)
    begin = time.monotonic()
    partial = engine.with_suffix(".partial")
    _build_to(partial, bundle, device)
    partial.replace(engine)
    stamp.write_text(json.dumps({**built_with, "sha256": sha256(engine)}))
    return _built(engine, round(time.monotonic() - begin, 1), reused=False)


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
    cache = file.parent / "timing.cache"
    if device["trtexec"] and device["tensorrt"]:
        version = version_of(device["tensorrt"])
        command = build_command(device["trtexec"], version, spec, model, file, cache)
        _run(command, file.parent / "build.log")
    else:
        file.write_bytes(build_with(_tensorrt(), spec, model, cache=cache))


def _tensorrt() -> Any:
    try:
        import tensorrt  # pyright: ignore[reportMissingImports] - on the device only
    except ImportError as error:
        raise EdgewrightError(NO_TRTEXEC, NO_TRTEXEC_HINT) from error
    return tensorrt


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
