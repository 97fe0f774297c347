"""Measure how often the comparison of timings is right on this machine.

    python -m edgewright.perf.noise ARTIFACT --repeats 20

Two cases are repeated. In the first, one side is slower by 10 %: the same model, which sleeps for
a tenth of each token's time. In the second, a model is compared with itself while a busy loop uses
another core; the machine needs at least two cores.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from ..benchmarks.latency.latency import Side, compare_sides
from ..benchmarks.latency.timing import Comparison
from ..benchmarks.latency.worker import Step, open_step, synthetic_prompt, time_round

SLOWDOWN = 0.10


def slowed(step: Step) -> Step:
    """A copy of a step that takes 10 % longer."""

    def slower(ids: list[list[int]], past: Any) -> Any:
        begin = time.perf_counter()
        result = step(ids, past)
        time.sleep(SLOWDOWN * (time.perf_counter() - begin))
        return result

    return slower


def repeated(
    name: str, sides: list[Side], repeats: int, rounds: int
) -> list[dict[str, Comparison]]:
    """Compare two sides several times, and print the verdicts and ratios."""
    found = [compare_sides(sides, rounds) for _ in range(repeats)]
    for phase in ("ttft", "decode"):
        ratios = sorted(one[phase].ratio for one in found)
        verdicts = Counter(one[phase].verdict for one in found)
        used = sum(one[phase].rounds for one in found) / repeats
        print(
            f"{name}, {phase}: {dict(verdicts)}; ratios {ratios[0]:.3f} to {ratios[-1]:.3f}, "
            f"{used:.0f} rounds each",
            flush=True,
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", type=Path)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=32)
    args = parser.parse_args()
    vocabulary = int(json.loads((args.path / "config.json").read_text())["vocab_size"])
    prompt = synthetic_prompt(1, args.prompt, vocabulary)
    step = open_step(args.path, "cpu", threads=1)
    plain, slower = (
        lambda step=one: time_round(step, prompt, args.new_tokens) for one in (step, slowed(step))
    )
    repeated("10 % slower", [slower, plain], args.repeats, args.rounds)
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        repeated("the same model, with a busy loop", [plain, plain], args.repeats, args.rounds)
    finally:
        busy.kill()
        busy.wait()


if __name__ == "__main__":
    main()
