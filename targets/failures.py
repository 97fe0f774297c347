"""Known failures of Jetson tools, recognized in their output, with advice for each.

docs/deployment.md shows the same table; a test compares the two.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["FAILURES", "Failure", "explain"]


@dataclass(frozen=True)
class Failure:
    """A kind of failure: the output that identifies it, what it means, and what to do."""

    name: str
    pattern: re.Pattern[str]
    message: str
    hint: str


def _failure(name: str, pattern: str, message: str, hint: str) -> Failure:
    return Failure(name, re.compile(pattern, re.IGNORECASE), message, hint)


# The first match is used, so causes come before their consequences: after a failed allocation
# TensorRT also reports that it has no implementation for a node.
FAILURES = (
    _failure(
        "disk-full",
        r"No space left on device|Disk quota exceeded",
        "the device's disk is full",
        "free space there (`df -h`; old versions are in versions/), or give another --remote-dir",
    ),
    _failure(
        "nvmap",
        r"NvMapMemAllocInternalTagged: \d+ error 12|NvMapMemHandleAlloc: error 0",
        "the GPU's allocator found no contiguous memory (NvMap error 12); swap cannot help, and "
        "free memory may not help either",
        "reboot, boot to text mode (sudo systemctl set-default multi-user.target) and close other "
        "programs that use the GPU; JetPack 6.2.1 (L4T 36.4.4 to 36.4.7) has the lowest limit and "
        "6.2.2 a higher one; or bundle a shorter --context and --prompt",
    ),
    _failure(
        "no-implementation",
        r"Could not find any implementation for node",
        "TensorRT found no kernel that fits into memory for a part of the graph",
        "use a shorter --prompt (the logits of the whole prompt are one buffer), or close other "
        "programs and try again",
    ),
    _failure(
        "no-trtexec",
        r"trtexec(: command)?:? not found|trtexec is not on this device",
        "trtexec is not on the device, and no engine can be built without it",
        "sudo apt install nvidia-jetpack (it installs /usr/src/tensorrt/bin/trtexec), or deploy "
        "with --no-engine",
    ),
    _failure(
        "out-of-memory",
        r"std::bad_alloc|Cannot allocate memory|MemoryError|CUDA error: out of memory|Killed\b"
        r"|OutOfMemory|out of memory",
        "the device ran out of memory",
        "close other programs, add swap for the build (a running engine cannot use swap), or "
        "bundle a shorter --context",
    ),
    _failure(
        "other-engine",
        r"serialization version|magicTag"
        r"|engine plan file is (not compatible|generated on an incompatible)",
        "the engine was built by another TensorRT or for another GPU",
        "remove engine/ on the device and deploy again: the engine is built there",
    ),
    _failure(
        "opset",
        r"Unsupported ONNX opset|opset version .* (is )?not supported",
        "this TensorRT cannot read the artifact's ONNX opset",
        "use JetPack 6.1 or later, or --no-engine",
    ),
    _failure(
        "no-package",
        r"No module named '?(numpy|onnxruntime)",
        "the device's Python has no numpy or no onnxruntime",
        "python3 -m pip install numpy onnxruntime there, or name another interpreter with --python",
    ),
)


def explain(output: str) -> Failure | None:
    """The first known failure that this output matches, or None."""
    return next((failure for failure in FAILURES if failure.pattern.search(output)), None)
