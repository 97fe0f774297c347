"""Time one model in a process of its own: `python -m edgewright.benchmarks.latency.worker`.

A fresh process makes the peak memory that of this model alone, and measures an ONNX artifact
without torch in memory.

Protocol, one JSON document per line. The worker prints what loading took. It then reads requests
(`prompt`, `new_tokens`, `batch`) from standard input and answers each with the seconds of one
round. At the end of the input it prints its peak memory. `latency.py` starts workers.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from .energy import EnergyMeter

__all__ = [
    "Round",
    "Step",
    "main",
    "onnx_step",
    "open_step",
    "peak_rss",
    "reset_peak_rss",
    "synthetic_prompt",
    "time_round",
    "torch_step",
]

Step = Callable[[list[list[int]], Any], Any]
"""Feeds token ids [batch, length] and a KV cache (None at first) to a model; returns the cache."""
RESET_PEAK = "5"
"""Written to /proc/self/clear_refs, it resets the peak of the resident memory (see proc(5))."""


@dataclass(frozen=True)
class Round:
    """Seconds until the first token and for each later one; joules, if the machine measures it."""

    first: float
    tokens: list[float]
    joules: float | None = None


def peak_rss() -> int:
    """The peak of this process's resident memory in bytes, since `reset_peak_rss`.

    On Linux getrusage is not used: its maximum survives exec, so a child of a large process would
    start with the parent's peak.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource  # not Linux: there, the maximum is not inherited

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def reset_peak_rss() -> None:
    """Start measuring the peak again from the current value, if the kernel supports it."""
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text(RESET_PEAK)


def torch_step(path: Path, device: str, threads: int) -> Step:
    """A `Step` that runs a checkpoint in torch."""
    import torch
    from transformers import DynamicCache

    from ...checkpoints.loading import load_model

    torch.set_num_threads(threads)
    model = load_model(path, device)

    def step(ids: list[list[int]], past: Any) -> Any:
        with torch.no_grad():
            cache = past if past is not None else DynamicCache(config=model.config)
            logits = model(
                input_ids=torch.tensor(ids, device=device), past_key_values=cache, use_cache=True
            ).logits
            logits[:, -1].argmax(-1).tolist()  # as generation does; it also waits for a GPU
        return cache

    return step


def onnx_step(path: Path, threads: int) -> Step:
    """A `Step` that runs an artifact in ONNX Runtime."""
    import numpy as np

    from ...export.onnx.runtime import OnnxDecoder

    decoder = OnnxDecoder(path, threads=threads)

    def step(ids: list[list[int]], past: Any) -> Any:
        tokens = np.asarray(ids, dtype=np.int64)
        cache = past if past is not None else decoder.open_cache(len(tokens), tokens.shape[1])
        mask = np.ones((len(tokens), cache.length + tokens.shape[1]), dtype=np.int64)
        decoder.step(tokens, mask, cache)[:, -1].argmax(-1)
        return cache

    return step


def open_step(path: Path, device: str, threads: int) -> Step:
    """A `Step` for the checkpoint or artifact at `path`."""
    return (
        onnx_step(path, threads)
        if (path / "model.onnx").is_file()
        else torch_step(path, device, threads)
    )


def time_round(
    step: Step,
    prompt: list[list[int]],
    new_tokens: int,
    after_prompt: Callable[[], None] = lambda: None,
) -> Round:
    """Time one prompt, and the decoding of `new_tokens` tokens after it.

    Args:
        step: the model.
        prompt: token ids [batch, length].
        new_tokens: number of tokens to decode.
        after_prompt: called between the two; its time is not counted.
    """
    begin = time.perf_counter()
    past = step(prompt, None)
    first = time.perf_counter() - begin
    after_prompt()
    tokens = []
    for _ in range(new_tokens):
        begin = time.perf_counter()
        past = step([[row[-1]] for row in prompt], past)
        tokens.append(time.perf_counter() - begin)
    return Round(first, tokens)


def synthetic_prompt(batch: int, length: int, vocabulary: int) -> list[list[int]]:
    """Arbitrary valid token ids [batch, length]."""
    return [[(7 * i + 11 + row) % vocabulary for i in range(length)] for row in range(batch)]


def _print_line(value: Any) -> None:
    print(json.dumps(value), flush=True)


def main() -> None:
    """Load a model, then time a round for each request."""
    parser = argparse.ArgumentParser(description="times one checkpoint or artifact, round by round")
    parser.add_argument("path", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    vocabulary = int(json.loads((args.path / "config.json").read_text())["vocab_size"])
    begin = time.perf_counter()
    step = open_step(args.path, args.device, args.threads)
    peaks = {"load": peak_rss()}
    affinity = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    _print_line({"load_s": time.perf_counter() - begin, "affinity": affinity})

    def record_peak(phase: str) -> None:
        peaks[phase] = max(peaks.get(phase, 0), peak_rss())
        reset_peak_rss()

    reset_peak_rss()
    for line in sys.stdin:
        request = json.loads(line)
        prompt = synthetic_prompt(request["batch"], request["prompt"], vocabulary)
        with EnergyMeter() as meter:
            timed = time_round(step, prompt, request["new_tokens"], lambda: record_peak("prefill"))
        record_peak("decode")
        _print_line(asdict(replace(timed, joules=meter.joules)))
    _print_line(peaks)


if __name__ == "__main__":
    main()
