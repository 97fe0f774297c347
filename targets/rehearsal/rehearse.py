"""Run a bundle's commands as a device would, and say what would go wrong there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...models import Architecture
from ..bundle import Bundle
from ..platform_profile import JetPack
from ..preflight import problems
from ..profile import Target, usable_bytes
from .documented import argument_faults
from .recorders import read_calls, write_recorders

__all__ = ["Rehearsal", "rehearse", "rehearsed_releases"]

VERBS = (
    ("verify",),
    ("probe",),
    ("check",),
    ("build",),
    ("bench", "--prompt-tokens=4", "--new-tokens=2", "--rounds=1"),
)
"""What a deployment runs on the device, with a short benchmark."""
SECONDS = 600
"""Longest time of one verb."""
REASON = 500
"""Characters of a failed verb's message that are shown."""


@dataclass(frozen=True)
class Rehearsal:
    """What was rehearsed for one JetPack release.

    Attributes:
        jetpack: the release.
        tensorrt: its version of TensorRT.
        commands: runs of the device's tools, in order.
        faults: what would go wrong there.
        notes: what should be known.
    """

    jetpack: str
    tensorrt: str
    commands: tuple[tuple[str, ...], ...]
    faults: tuple[str, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The rehearsal as plain data, for JSON."""
        return asdict(self)


def rehearsed_releases(target: Target, jetpack: str | None = None) -> list[JetPack]:
    """The named release, or the newest of each TensorRT from 10 on, which builds engines."""
    if jetpack:
        return [target.jetpack(jetpack)]
    newest = {release.tensorrt: release for release in target.releases()}
    return [release for release in newest.values() if int(release.tensorrt.split(".")[0]) >= 10]


def rehearse(
    bundle: Bundle, folder: Path, target: Target, model: Architecture, jetpack: JetPack
) -> Rehearsal:
    """Run a bundle's scripts with recorders in place of the device's tools.

    Args:
        bundle: the bundle.
        folder: where it is written; the recorders are put beside it.
        target: the device.
        model: the architecture of the artifact.
        jetpack: the release to rehearse.
    """
    tools = folder.parent / f"tools-{jetpack.name}"
    write_recorders(tools, target, jetpack)
    faults: list[str] = []
    notes: list[str] = []
    for verb in VERBS:
        answer, fault = _run(folder, verb, tools)
        faults += [fault] if fault else []
        if verb[0] == "probe" and answer:
            report = answer | {"board": "", "memory": {"MemAvailable": usable_bytes(target)}}
            for problem in problems(report, target, bundle, model, engine=True):
                (faults if problem.fatal else notes).append(f"{problem.message} ({problem.hint})")
    commands = read_calls(tools)
    for command in commands:
        faults += argument_faults(command, jetpack.tensorrt)
        faults += _mode_faults(command, target)
    if not any(command[0] == "trtexec" for command in commands):
        faults.append("trtexec was not run, so no engine would be built")
    unique = tuple(dict.fromkeys(faults))
    return Rehearsal(jetpack.name, jetpack.tensorrt, tuple(commands), unique, tuple(notes))


def _run(folder: Path, verb: tuple[str, ...], tools: Path) -> tuple[dict[str, Any], str | None]:
    """The answer of one verb of `run.sh`, and why it failed, if it did."""
    path = f"{tools}{os.pathsep}{os.environ.get('PATH', '')}"
    try:
        done = subprocess.run(
            ["sh", str(folder / "run.sh"), *verb],
            env={**os.environ, "PATH": path, "PYTHON": sys.executable},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SECONDS,
            check=False,
        )
        answer: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {}
    except subprocess.TimeoutExpired:
        return {}, f"run.sh {verb[0]}: not done after {SECONDS} s"
    except ValueError:
        return {}, f"run.sh {verb[0]}: its answer is no JSON"
    if done.returncode == 0:
        return answer, None
    reason = " ".join(done.stderr.split())[-REASON:] or f"exit code {done.returncode}"
    return {}, f"run.sh {verb[0]}: {reason}"


def _mode_faults(command: tuple[str, ...], target: Target) -> Iterator[str]:
    """A power mode that the device does not have."""
    if command[0] != "nvpmodel" or "-m" not in command:
        return
    modes = len(target.power_modes)
    chosen = command[command.index("-m") + 1 :][:1]
    if not chosen or not chosen[0].isdigit() or int(chosen[0]) >= modes:
        said = " ".join(chosen)
        yield f"nvpmodel -m {said}: {target.name} has the modes 0 to {modes - 1}"
