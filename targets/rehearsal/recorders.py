"""Programs that take the place of a device's tools: they record their arguments and answer."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from ..platform_profile import JetPack
from ..profile import Target

__all__ = ["read_calls", "write_recorders"]

CALLS = "calls.jsonl"
RECORD = """#!{python}
import json, os, sys
with open({log!r}, "a") as file:
    file.write(json.dumps([{name!r}, *sys.argv[1:]]) + "\\n")
"""
TRTEXEC = """
options = dict(a[2:].split("=", 1) if "=" in a else (a[2:], "") for a in sys.argv[1:])
files = [options[name] for name in ("onnx", "loadEngine") if options.get(name)]
files += [part.split(":", 1)[1] for part in options.get("loadInputs", "").split(",") if ":" in part]
missing = [file for file in files if not os.path.isfile(file)]
if missing:
    print("[E] Cannot open " + ", ".join(missing))
    print("&&&& FAILED TensorRT.trtexec # trtexec")
    sys.exit(1)
if options.get("saveEngine"):
    open(options["saveEngine"], "wb").write(b"rehearsed")
times = {"startComputeMs": 1, "h2dMs": 0, "computeMs": 1, "d2hMs": 0, "latencyMs": 1}
for name, content in (("exportTimes", [times]), ("exportProfile", [{"count": 1}])):
    if options.get(name):
        json.dump(content, open(options[name], "w"))
print("&&&& PASSED TensorRT.trtexec # trtexec")
"""
DPKG = """
versions = {versions!r}
found = [version for name, version in versions.items() if name in sys.argv]
print(found[0]) if found else sys.exit(1)
"""


def write_recorders(folder: Path, target: Target, jetpack: JetPack) -> None:
    """Write the tools of a device into a folder, to be put in front of PATH.

    Args:
        folder: where the programs and their record are.
        target: the device; its default power mode is the active one.
        jetpack: the release whose versions they answer with.
    """
    folder.mkdir(parents=True, exist_ok=True)
    l4t = jetpack.l4t.split()[0].rstrip(",")
    versions = {"nvidia-l4t-core": f"{l4t}-1", "libnvinfer-bin": f"{jetpack.tensorrt}-1"}
    bodies = {
        "trtexec": TRTEXEC,
        "nvpmodel": f'print("NV Power Mode: {target.default_mode}")\n',
        "tegrastats": "",
        "jetson_clocks": "",
        "dpkg-query": DPKG.format(versions=versions),
    }
    log = str(folder / CALLS)
    for name, body in bodies.items():
        file = folder / name
        file.write_text(RECORD.format(python=sys.executable, log=log, name=name) + body)
        file.chmod(0o755)


def read_calls(folder: Path) -> list[tuple[str, ...]]:
    """The runs of tools, in order: name and arguments. `dpkg-query` is on every system."""
    file = folder / CALLS
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    calls = [tuple(map(str, json.loads(line))) for line in lines]
    return [call for call in calls if call[0] != "dpkg-query"]
