"""Describe a device before anything is copied to it: `python3 - DIRECTORY < probe.py`.

This file may use only the standard library and Python 3.8, the version of JetPack 5. So even a
device that is too old for edgewright can report what it is. What cannot be found out is null.
The probe changes nothing on the device.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

__all__ = ["llama_server_path", "probe", "trtexec_path"]

PACKAGES = (
    "onnxruntime",
    "onnxruntime-gpu",
    "numpy",
    "tensorrt",
    "tensorrt_rtx",
    "tokenizers",
)
TENSORRT_DEBS = ("libnvinfer-bin", "tensorrt", "libnvinfer10", "libnvinfer8")
TRTEXEC = "/usr/src/tensorrt/bin/trtexec"
LLAMA_SERVER = "llama-server"
LLAMA_PLACES = (
    "~/llama.cpp/build/bin",
    "~/src/llama.cpp/build/bin",
    "/opt/llama.cpp/build/bin",
    "/opt/llama.cpp/bin",
    "~/.local/bin",
    "/usr/local/bin",
)
"""Where people build llama.cpp, or install it off PATH."""


def probe(folder: str) -> dict[str, Any]:
    """Everything about this machine that a deployment depends on.

    Args:
        folder: where the bundle will be; the free space of its disk is reported.
    """
    mode = re.search(r"NV Power Mode: *(\S+)", _output(["nvpmodel", "-q"]) or "")
    return {
        "machine": platform.machine(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "board": _text("/proc/device-tree/model"),
        "l4t": _l4t(),
        "tensorrt": _tensorrt(),
        "trtexec": trtexec_path(),
        "llama_server": llama_server_path(),
        "power_mode": mode.group(1) if mode else None,
        "gpu_hz": _gpu_clocks(),
        "memory": _memory(),
        "disk_free_bytes": _disk(folder),
        "tegrastats": shutil.which("tegrastats"),
        "packages": {name: _package(name) for name in PACKAGES},
    }


def trtexec_path() -> str | None:
    """The path of trtexec: on PATH, or where JetPack installs it, which is not on PATH."""
    return shutil.which("trtexec") or (TRTEXEC if os.access(TRTEXEC, os.X_OK) else None)


def llama_server_path(given: str = "") -> str | None:
    """The path of llama-server: the given one, or one on PATH or where it is usually built."""
    if given:
        return shutil.which(os.path.expanduser(given))
    places = os.pathsep.join(os.path.expanduser(place) for place in LLAMA_PLACES)
    return shutil.which(LLAMA_SERVER) or shutil.which(LLAMA_SERVER, path=places)


def _output(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _text(file: str) -> str | None:
    try:
        return Path(file).read_text(errors="replace").strip("\0\n ")
    except OSError:
        return None


def _l4t() -> str | None:
    """The L4T release, such as 36.4.3, from the installed package or from /etc/nv_tegra_release."""
    package = re.match(
        r"\d+\.\d+(\.\d+)?", _output(["dpkg-query", "-W", "-f=${Version}", "nvidia-l4t-core"]) or ""
    )
    if package:
        return package.group(0)
    release = re.search(
        r"R(\d+) \(release\), REVISION: ([\d.]+)", _text("/etc/nv_tegra_release") or ""
    )
    return "{}.{}".format(*release.groups()) if release else None


def _tensorrt() -> str | None:
    for name in TENSORRT_DEBS:
        found = re.match(
            r"\d+\.\d+\.\d+", _output(["dpkg-query", "-W", "-f=${Version}", name]) or ""
        )
        if found:
            return found.group(0)
    return None


def _gpu_clocks() -> dict[str, int]:
    clocks: dict[str, int] = {}
    for folder in Path("/sys/class/devfreq").glob("17000000.*"):  # the GPU of every Orin
        for name in ("cur", "min", "max"):
            text = _text(str(folder / (name + "_freq")))
            if text and text.isdigit():
                clocks[name] = int(text)
    return clocks


def _memory() -> dict[str, int]:
    lines = (_text("/proc/meminfo") or "").splitlines()
    wanted = ("MemTotal", "MemAvailable", "SwapTotal", "SwapFree")
    return {
        line.split(":")[0]: int(line.split()[1]) * 1024
        for line in lines
        if line.split(":")[0] in wanted
    }


def _disk(folder: str) -> int:
    place = Path(folder).expanduser().absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(str(place)).free


def _package(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:  # a system's package may not say its version
        return "unknown" if find_spec(name) else None


if __name__ == "__main__":
    print(json.dumps(probe(sys.argv[1] if len(sys.argv) > 1 else ".")))
