"""What tools print on a device: trtexec and tegrastats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from ...targets.tegrastats import parse_samples, summarize
from ...targets.trtexec import parse_log, parse_profile, parse_times
from .changes import changed_bytes, changed_text

__all__ = ["log_readers"]

LOG = b"""&&&& RUNNING TensorRT.trtexec [TensorRT v100300] # trtexec --onnx=m.onnx
[08/01/2024-10:00:00] [I] Engine built in 12.5 sec.
[08/01/2024-10:00:00] [I] Warmup completed 20 queries over 200 ms
[08/01/2024-10:00:00] [I] Timing trace has 100 queries over 3.0 s
[08/01/2024-10:00:00] [I] Throughput: 33.3 qps
[08/01/2024-10:00:00] [I] Latency: min = 29 ms, max = 31 ms, mean = 30 ms, percentile(99%) = 31 ms
[08/01/2024-10:00:00] [I] Total Host Walltime: 3.0 s
[08/01/2024-10:00:00] [I] === Profile (100 iterations ) ===
[08/01/2024-10:00:00] [I]    Time(ms)     Avg.(ms)   Median(ms)   Time(%)   Layer
[08/01/2024-10:00:00] [I]      100.00       1.0000       1.0000      50.0   conv
[08/01/2024-10:00:00] [I]      200.00       2.0000       2.0000     100.0   Total
&&&& PASSED TensorRT.trtexec [TensorRT v100300] # trtexec --onnx=m.onnx
"""
TIMES = [
    {
        "startH2dMs": 0.0,
        "endH2dMs": 0.1,
        "startComputeMs": 0.2,
        "endComputeMs": 1.2,
        "latencyMs": 1.3,
    }
]
PROFILE = [{"count": 100}, {"name": "conv", "timeMs": 100.0, "averageMs": 1.0, "percentage": 50.0}]
TEGRASTATS = (
    b"08-01-2024 10:00:00 RAM 3021/7620MB (lfb 4x4MB) SWAP 10/3810MB (cached 0MB) "
    b"CPU [10%@1510,5%@1510,off] EMC_FREQ 3%@2133 GR3D_FREQ 45%@[624,624] cpu@48.5C gpu@47C "
    b"tj@48.5C VDD_IN 5012mW/4998mW VDD_CPU_GPU_CV 1200mW/1100mW\n"
)


def _text(file: Path) -> str:
    return file.read_bytes().decode(errors="replace")


def _tegrastats(folder: Path) -> None:
    if samples := parse_samples(_text(folder / "log")):
        summarize(samples)


def _one(content: st.SearchStrategy[bytes]) -> st.SearchStrategy[dict[str, bytes]]:
    return content.map(lambda data: {"log": data})


def log_readers() -> list[tuple[Any, ...]]:
    """The arguments of `FileReader` for each kind."""
    return [
        ("trtexec logs", _one(changed_bytes(LOG)), lambda f: parse_log(_text(f / "log")), 10),
        ("trtexec times", _one(changed_text([TIMES])), lambda f: parse_times(_text(f / "log")), 6),
        (
            "trtexec profiles",
            _one(changed_text([PROFILE])),
            lambda f: parse_profile(_text(f / "log")),
            6,
        ),
        ("tegrastats", _one(changed_bytes(TEGRASTATS * 3)), _tegrastats, 10),
    ]
