"""Measure a bundle on the device: ONNX Runtime, the TensorRT engine, and power and clocks."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...errors import EdgewrightError
from .engine import ENGINE, time_engine
from .probe import probe

__all__ = ["bench"]


def bench(bundle: Path, threads: int, prompt: int, new_tokens: int, rounds: int) -> dict[str, Any]:
    """Measure ONNX Runtime and, if it was built, the engine, while tegrastats records.

    Args:
        bundle: directory of the bundle.
        threads: threads of ONNX Runtime.
        prompt: tokens of the prompt.
        new_tokens: tokens to generate.
        rounds: how often to measure, after one round that is not counted.

    Returns:
        `rounds`, `peaks` and `load_s` from the worker that runs ONNX Runtime, `device` (the
        output of `probe` before the measurement), and the raw text of `tegrastats` and of
        `trtexec` (by phase). The host parses these texts.
    """
    device = probe(str(bundle))
    with _tegrastats() as lines:
        replies = _run_worker(bundle, threads, prompt, new_tokens, rounds + 1)
        engine = time_engine(bundle, device) if (bundle / ENGINE).is_file() else {}
    loaded, _, *timed, peaks = map(json.loads, replies)  # the first round warms up
    return {
        "rounds": timed,
        "peaks": peaks,
        "load_s": loaded["load_s"],
        "prompt": prompt,
        "device": device,
        "tegrastats": "".join(lines),
        "trtexec": engine,
    }


def _run_worker(bundle: Path, threads: int, prompt: int, new_tokens: int, rounds: int) -> list[str]:
    """Run ONNX Runtime in a process of its own, so that its peak memory can be measured."""
    command = [
        sys.executable,
        "-m",
        "edgewright.benchmarks.latency.worker",
        str(bundle / "model"),
        "--threads",
        str(threads),
    ]
    request = json.dumps({"prompt": prompt, "new_tokens": new_tokens, "batch": 1})
    done = subprocess.run(
        command, input=f"{request}\n" * rounds, capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        reason = lines[-1] if lines else "the process was killed, perhaps for lack of memory"
        raise EdgewrightError(
            f"the benchmark failed with exit code {done.returncode}: {reason}",
            "close other programs, or bundle a shorter context",
        )
    return done.stdout.splitlines()


@contextmanager
def _tegrastats() -> Generator[list[str]]:
    """Record tegrastats while the block runs.

    The list is filled when the block ends. It stays empty if there is no tegrastats.
    """
    lines: list[str] = []
    with tempfile.TemporaryFile("w+") as output:
        try:
            recorder = subprocess.Popen(
                ["tegrastats", "--interval", "500"], stdout=output, stderr=subprocess.DEVNULL
            )
        except OSError:
            recorder = None
        try:
            yield lines
        finally:
            if recorder:
                recorder.terminate()
                recorder.wait()
            output.seek(0)
            lines += output.readlines()
