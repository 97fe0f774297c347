"""A double of trtexec, and of the engines that it builds: what `tensorrt_double.py` loads."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

VERSION = "10.3.0"
COMPUTE = (8, 7)
Shapes = dict[str, list[tuple[int, ...]]]


def engine_file(
    onnx: Path, profiles: list[Shapes], version: str = VERSION, compute: Any = COMPUTE
) -> bytes:
    """The bytes of an engine; TensorRT's would not be readable either."""
    content = {"onnx": str(onnx), "profiles": profiles}
    return json.dumps(content | {"version": version, "compute": list(compute)}).encode()


def main() -> None:
    """Build an engine as trtexec does, and record the command."""
    words = [one.removeprefix("--").split("=", 1) for one in sys.argv[1:]]
    options = {word[0]: word[-1] for word in words}
    profiles: list[Shapes] = []
    for name, *value in words:
        if name == "profile":
            profiles.append({})
        elif name in ("minShapes", "optShapes", "maxShapes"):
            for one in value[0].split(","):
                tensor, _, sizes = one.rpartition(":")
                profiles[-1].setdefault(tensor, []).append(tuple(map(int, sizes.split("x"))))
    Path(options["saveEngine"]).write_bytes(engine_file(Path(options["onnx"]), profiles))
    Path(options["timingCacheFile"]).write_bytes(b"times")
    with Path(sys.argv[0] + ".builds").open("a") as record:
        record.write(json.dumps(options) + "\n")
    print("&&&& PASSED TensorRT.trtexec [TensorRT v100300] # trtexec")


if __name__ == "__main__":
    main()
