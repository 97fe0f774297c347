"""Programs that make a machine look like a Jetson to a deployment."""

from __future__ import annotations

import sys
from pathlib import Path

NVMAP = "NvMapMemAllocInternalTagged: 1075072515 error 12"
SHORT = ("--prompt", 8, "--context", 32)


def program(folder: Path, name: str, body: str) -> None:
    """A program on the device's PATH."""
    file = folder / "bin" / name
    file.write_text(body if body.startswith("#!") else f"#!/bin/sh\n{body}\n")
    file.chmod(0o755)


def jetson(folder: Path, l4t: str = "36.4.3", tensorrt: str = "10.3.0.30-1+cuda12.5") -> None:
    """Add the programs of a Jetson: dpkg-query with its packages, nvpmodel, and tegrastats."""
    program(
        folder,
        "dpkg-query",
        f'case "$*" in *nvidia-l4t-core*) echo {l4t}-20250107174145;; *libnvinfer-bin*) '
        f"echo {tensorrt};; *) exit 1;; esac",
    )
    program(folder, "nvpmodel", "echo NV Power Mode: MAXN_SUPER; echo 2")
    program(
        folder,
        "tegrastats",
        "while :; do echo '03-14-2026 15:09:26 RAM 2000/7620MB (lfb 12x4MB) SWAP 0/3810MB "
        "(cached 0MB) EMC_FREQ 61%@3199 "
        "GR3D_FREQ 99%@[1020] tj@58.3C VDD_IN 16321mW/11204mW VDD_SOC 3120mW/2988mW'; "
        "sleep 0.05; done",
    )


TRTEXEC = f"""#!{sys.executable}
import json, sys
options = dict(a[2:].split("=", 1) if "=" in a else (a[2:], "") for a in sys.argv[1:])
use = "build" if "onnx" in options else "run" + options["useProfile"]
json.dump(sys.argv[1:], open(sys.argv[0] + "." + use, "w"))
print("&&&& RUNNING TensorRT.trtexec [TensorRT v100300] # trtexec")
if "onnx" in options:
    open(options["saveEngine"], "wb").write(b"engine")
else:
    ms = 4.0 if options["useProfile"] == "0" else 2.0
    fields = ["startComputeMs", "h2dMs", "computeMs", "d2hMs", "latencyMs"]
    query = dict(zip(fields, [9, 0, ms, 0, ms]))
    json.dump([query] * 5, open(options["exportTimes"], "w"))
    layer = {{"name": "a", "timeMs": 5, "averageMs": 1, "medianMs": 1, "percentage": 100}}
    json.dump([{{"count": 5}}, layer], open(options["exportProfile"], "w"))
    print(f"[01/01/2026-00:00:00] [I] Throughput: {{1000 / ms}} qps")
print("&&&& PASSED TensorRT.trtexec [TensorRT v100300] # trtexec")
"""
