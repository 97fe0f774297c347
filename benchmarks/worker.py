"""Latency and memory of one model, measured alone in a process of its own: ``python -m edgewright.benchmarks.worker``.

A fresh process is the point: the peak memory is that of loading and running this model and nothing else, and an ONNX
artifact is measured without torch in memory. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["main", "onnx_step", "torch_step"]

Step = Callable[[list[list[int]], Any], Any]


def _peak_rss() -> int:
    """High-water mark of this process's resident memory, bytes.

    Not getrusage: its maximum survives exec, so that a child of a large process starts with the parent's.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource  # elsewhere than Linux the inherited maximum is not a concern

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def torch_step(path: Path, device: str, threads: int) -> Step:
    """A function that feeds tokens and a cache to a checkpoint in torch and returns the new cache."""
    import torch
    from transformers import DynamicCache

    from ..loading import load_model

    torch.set_num_threads(threads)
    model = load_model(path, device)

    def step(ids: list[list[int]], past: Any) -> Any:
        with torch.no_grad():
            cache = past if past is not None else DynamicCache(config=model.config)
            logits = model(input_ids=torch.tensor(ids, device=device), past_key_values=cache, use_cache=True).logits
            logits[:, -1].argmax(-1).tolist()  # what a generator does, and it waits for a GPU
        return cache

    return step


def onnx_step(path: Path, threads: int) -> Step:
    """The same for an artifact in ONNX Runtime."""
    import numpy as np

    from ..export.runtime import OnnxDecoder

    decoder = OnnxDecoder(path, threads=threads)

    def step(ids: list[list[int]], past: Any) -> Any:
        cache, length = past if past is not None else (None, 0)
        tokens = np.asarray(ids, dtype=np.int64)
        mask = np.ones((tokens.shape[0], length + tokens.shape[1]), dtype=np.int64)
        logits, cache = decoder.forward(tokens, mask, past=cache)
        logits[:, -1].argmax(-1)
        return cache, length + tokens.shape[1]

    return step


def _measure(step: Step, prompt: list[list[int]], new_tokens: int, runs: int) -> dict[str, float]:
    """Time `runs` prompts and their decoding after one unmeasured round."""
    first: list[float] = []
    rates: list[float] = []
    for number in range(runs + 1):
        begin = time.perf_counter()
        past = step(prompt, None)
        ttft = time.perf_counter() - begin
        begin = time.perf_counter()
        for _ in range(new_tokens):
            past = step([[row[-1]] for row in prompt], past)
        seconds = time.perf_counter() - begin
        if number:
            first.append(ttft * 1000)
            rates.append(new_tokens * len(prompt) / seconds)
    ordered = sorted(first)

    def percentile(share: float) -> float:
        return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]

    return {
        "ttft_ms/p50": percentile(0.5), "ttft_ms/p90": percentile(0.9), "ttft_ms/p99": percentile(0.99),
        "prefill_tok_s": len(prompt) * len(prompt[0]) / (statistics.median(first) / 1000),
        "decode_tok_s/p50": statistics.median(rates),
        "decode_tok_s/cv": statistics.pstdev(rates) / statistics.mean(rates),
    }  # fmt: skip


def main() -> None:
    """Measure one directory and print the figures."""
    parser = argparse.ArgumentParser(description="latency and peak memory of one checkpoint or artifact")
    parser.add_argument("path", type=Path)
    parser.add_argument("--prompt", type=int, default=64, help="prompt length, tokens")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    vocab = int(json.loads((args.path / "config.json").read_text())["vocab_size"])
    prompt = [[(7 * i + 11) % vocab for i in range(args.prompt)]]
    artifact = (args.path / "model.onnx").is_file()
    begin = time.perf_counter()
    step = onnx_step(args.path, args.threads) if artifact else torch_step(args.path, args.device, args.threads)
    load = time.perf_counter() - begin
    figures = _measure(step, prompt, args.new_tokens, args.runs)
    print(json.dumps({**figures, "load_s": load, "peak_rss_bytes": _peak_rss()}))


if __name__ == "__main__":
    main()
