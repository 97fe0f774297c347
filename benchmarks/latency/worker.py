"""One model, timed alone in a process of its own: ``python -m edgewright.benchmarks.latency.worker``.

A fresh process is the point: the peak memory is that of loading and running this model and nothing else, and an ONNX
artifact is measured without torch in memory. It tells what loading took, then answers each line on standard input, a JSON
object of `prompt`, `new_tokens` and `batch`, with the seconds of one round, and at the end tells its memory. Whoever starts
two of them can let them take turns (`latency`).
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
    "made_up_prompt",
    "main",
    "onnx_step",
    "open_step",
    "time_round",
    "torch_step",
]

Step = Callable[[list[list[int]], Any], Any]
RESET_PEAK = "5"


@dataclass(frozen=True)
class Round:
    """Seconds to the first token, and to each one after it; joules of the machine, where it tells."""

    first: float
    tokens: list[float]
    joules: float | None = None


def peak_rss() -> int:
    """High-water mark of this process's resident memory, bytes, since `forget_peak`.

    Not getrusage: its maximum survives exec, so that a child of a large process starts with the parent's.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource  # elsewhere than Linux the inherited maximum is not a concern

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def forget_peak() -> None:
    """Start the high-water mark again from here, where the kernel can."""
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text(RESET_PEAK)


def torch_step(path: Path, device: str, threads: int) -> Step:
    """A function that feeds tokens and a cache to a checkpoint in torch and returns the new cache."""
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
            logits[:, -1].argmax(-1).tolist()  # what a generator does, and it waits for a GPU
        return cache

    return step


def onnx_step(path: Path, threads: int) -> Step:
    """The same for an artifact in ONNX Runtime."""
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
    """The step function of whatever is at `path`."""
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
    """Time one prompt [batch, length] and the decoding of `new_tokens` after it; between the two, something is called untimed."""
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


def made_up_prompt(batch: int, length: int, vocabulary: int) -> list[list[int]]:
    """Token ids [batch, length] that are all valid."""
    return [[(7 * i + 11 + row) % vocabulary for i in range(length)] for row in range(batch)]


def _say(value: Any) -> None:
    print(json.dumps(value), flush=True)


def main() -> None:
    """Load one directory, then time rounds as they are asked for."""
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
    _say({"load_s": time.perf_counter() - begin, "affinity": affinity})

    def note(phase: str) -> None:
        peaks[phase] = max(peaks.get(phase, 0), peak_rss())
        forget_peak()

    forget_peak()
    for line in sys.stdin:
        asked = json.loads(line)
        prompt = made_up_prompt(asked["batch"], asked["prompt"], vocabulary)
        with EnergyMeter() as meter:
            timed = time_round(step, prompt, asked["new_tokens"], lambda: note("prefill"))
        note("decode")
        _say(asdict(replace(timed, joules=meter.joules)))
    _say(peaks)


if __name__ == "__main__":
    main()
