"""How often the comparison of timings is right on this machine: a planted slowdown, and a model against itself beside a busy loop.

    python -m edgewright.perf.noise ARTIFACT --repeats 20

The slower side is a double of the model that sleeps a tenth of what each token took. The busy loop takes one core for as long as
the model is compared with itself; the machine needs another core for the model.
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
    """A double of a step that takes a tenth longer."""

    def slower(ids: list[list[int]], past: Any) -> Any:
        begin = time.perf_counter()
        result = step(ids, past)
        time.sleep(SLOWDOWN * (time.perf_counter() - begin))
        return result

    return slower


def repeated(
    name: str, sides: list[Side], repeats: int, rounds: int
) -> list[dict[str, Comparison]]:
    found = [compare_sides(sides, rounds) for _ in range(repeats)]
    for figure in ("ttft", "decode"):
        ratios = sorted(one[figure].ratio for one in found)
        verdicts = Counter(one[figure].verdict for one in found)
        used = sum(one[figure].rounds for one in found) / repeats
        print(
            f"{name}, {figure}: {dict(verdicts)}; ratios {ratios[0]:.3f} to {ratios[-1]:.3f}, {used:.0f} rounds each",
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
    repeated("a tenth slower", [slower, plain], args.repeats, args.rounds)
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        repeated("the same, beside a busy loop", [plain, plain], args.repeats, args.rounds)
    finally:
        busy.kill()
        busy.wait()


if __name__ == "__main__":
    main()
