"""Decode speed of two models, side by side: rounds alternate, so that a change of the machine's mood hits both.

    python -m edgewright.perf.decode runs/demo/export-int4 runs/demo/distill --rounds 15

Each side is a checkpoint (torch) or an artifact (ONNX Runtime). Prints the median tokens a second of each, and their ratio
with a 95 % bootstrap interval over the paired rounds.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from pathlib import Path

import torch

from ..benchmarks.worker import Step, onnx_step, torch_step

WARM_ROUNDS = 2


def open_step(path: Path, threads: int) -> Step:
    """The step function of whatever is at `path`."""
    return onnx_step(path, threads) if (path / "model.onnx").is_file() else torch_step(path, "cpu", threads)


def rate(step: Step, prompt: int, new_tokens: int, vocab: int) -> float:
    """Tokens decoded a second after one prompt."""
    past = step([[(7 * i + 11) % vocab for i in range(prompt)]], None)
    begin = time.perf_counter()
    for i in range(new_tokens):
        past = step([[(5 * i + 3) % vocab]], past)
    return new_tokens / (time.perf_counter() - begin)


def interval(ratios: list[float]) -> tuple[float, float]:
    """The 95 % bootstrap interval of the median ratio."""
    rng = random.Random(0)
    medians = sorted(statistics.median(rng.choices(ratios, k=len(ratios))) for _ in range(2000))
    return medians[50], medians[1949]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("a", type=Path)
    parser.add_argument("b", type=Path)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    steps = [open_step(path, args.threads) for path in (args.a, args.b)]
    vocab = int(json.loads((args.a / "config.json").read_text())["vocab_size"])
    rounds = [[rate(step, args.prompt, args.new_tokens, vocab) for step in steps] for _ in range(WARM_ROUNDS + args.rounds)]
    measured = rounds[WARM_ROUNDS:]
    for path, rates in zip((args.a, args.b), zip(*measured, strict=True), strict=True):
        print(f"{path}: {statistics.median(rates):,.0f} tokens/s (min {min(rates):,.0f}, max {max(rates):,.0f})")
    ratios = [a / b for a, b in measured]
    low, high = interval(ratios)
    print(f"ratio {statistics.median(ratios):.2f} (95 % interval {low:.2f} to {high:.2f}, {args.threads} threads)")


if __name__ == "__main__":
    main()
