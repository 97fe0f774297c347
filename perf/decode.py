"""Compare the speed of two models, measured in turns so that the machine's changes hit both.

    python -m edgewright.perf.decode runs/demo/export-int4 builtin:tiny-reasoner --rounds 15

Each model is a checkpoint (torch) or an artifact (ONNX Runtime), in a process of its own. The
output is how many times as fast the first model is as the second, for decoding and for the first
token, with a 99 % interval. `edgewright bench A --against B` does the same.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from ..benchmarks.latency.latency import time_against
from ..benchmarks.options import LatencyOptions
from ..checkpoints.config import model_path


def _directory(model: str) -> Path:
    return Path(model_path(model))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("a", type=_directory)
    parser.add_argument("b", type=_directory)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    options = LatencyOptions(prompt=args.prompt, new_tokens=args.new_tokens, runs=args.rounds)
    # The ratio of the seconds of b to those of a is the speed of a relative to b.
    for name, found in time_against(args.b, args.a, options, "cpu", args.threads).items():
        print(
            f"{name}: {args.a} is {found['ratio']:.2f} times as fast as {args.b} "
            f"(99 % interval {found['low']:.2f} to {found['high']:.2f}, {found['rounds']} rounds, "
            f"{args.threads} threads)"
        )


if __name__ == "__main__":
    main()
