"""Compare an ONNX Runtime artifact with llama.cpp (a GGUF file of the same model) in speed.

    python -m edgewright.perf.llamacpp ARTIFACT model-Q4_K_M.gguf --python .compat/llama/bin/python

Each side runs in a process of its own with the same number of threads. A round is one prompt and
some tokens after it, at batch 1; the sides take turns. The output is the tokens per second of both,
how many times as fast the artifact is (with a 99 % interval), and an upper bound: how often per
second the memory can deliver the weights, which each token needs.

Build llama.cpp's Python package with the processor's instructions:
CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_AVX512=ON -DGGML_AVX512_VNNI=ON".
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any, Self

import numpy as np

from ..benchmarks.latency.latency import Worker, take_turns, warm_up
from ..benchmarks.latency.timing import compare
from ..benchmarks.latency.worker import Round

LLAMA = """
import json, sys, time
from llama_cpp import Llama
threads = int(sys.argv[2])
model = Llama(
    sys.argv[1], n_ctx=1024, n_batch=512, n_threads=threads, n_threads_batch=threads, verbose=False
)
vocabulary = model.n_vocab()
print(json.dumps({"loaded": True}), flush=True)
def step(ids):
    begin = time.perf_counter()
    model.eval(ids)
    model.scores[0 if not model._logits_all else model.n_tokens - 1].argmax()
    return time.perf_counter() - begin
for line in sys.stdin:
    request = json.loads(line)
    prompt = [(7 * i + 11) % vocabulary for i in range(request["prompt"])]
    model.reset()
    first = step(prompt)
    tokens = [step(prompt[-1:]) for _ in range(request["new_tokens"])]
    print(json.dumps({"first": first, "tokens": tokens}), flush=True)
"""


class Llama:
    """llama.cpp in a process of its own, which runs rounds on request."""

    def __init__(self, python: Path, file: Path, threads: int) -> None:
        command = [str(python), "-c", LLAMA, str(file), str(threads)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self._receive()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def round(self, shape: dict[str, int]) -> Round:
        """Time one round of this shape."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(shape) + "\n")
        self._process.stdin.flush()
        return Round(**self._receive())

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("the llama.cpp process ended; its output is above")
        return json.loads(line)


def main() -> None:
    """Measure both sides in turns, and print the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("artifact", type=Path)
    parser.add_argument("gguf", type=Path)
    parser.add_argument(
        "--python",
        type=Path,
        required=True,
        help="Python interpreter of an environment with llama-cpp-python",
    )
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    shape = {"prompt": args.prompt, "new_tokens": args.new_tokens, "batch": 1}
    with (
        Worker(args.artifact, "cpu", args.threads) as ours,
        Llama(args.python, args.gguf, args.threads) as theirs,
    ):
        sides = [lambda: ours.round(shape), lambda: theirs.round(shape)]
        for side in sides:
            warm_up(side)
        timed = take_turns(sides, args.rounds)
    _print_speeds(args, timed)
    mine, other = timed
    for what, seconds in {
        "decode": lambda one: sum(one.tokens),
        "prefill": lambda one: one.first,
    }.items():
        found = compare([seconds(one) for one in other], [seconds(one) for one in mine])
        print(
            f"{what}: the artifact is {found.ratio:.2f} times as fast "
            f"(99 % interval {found.low:.2f} to {found.high:.2f})"
        )


def _print_speeds(args: argparse.Namespace, timed: list[list[Round]]) -> None:
    """Print the speed of each side, and which share of the memory's bound it reaches."""
    bandwidth = _bandwidth(args.threads)
    sizes = [(args.artifact / "model.onnx.data").stat().st_size, args.gguf.stat().st_size]
    for name, rounds, size in zip((args.artifact, args.gguf), timed, sizes, strict=True):
        decode = args.new_tokens / statistics.median(sum(one.tokens) for one in rounds)
        prefill = args.prompt / statistics.median(one.first for one in rounds)
        bound = bandwidth * 1e9 / size
        print(
            f"{name}: decode {decode:.1f} tok/s, prefill {prefill:.0f} tok/s; "
            f"{size / 1e6:.0f} MB of weights per token at {bandwidth:.1f} GB/s allow "
            f"{bound:.0f} tok/s: {decode / bound:.0%} of that"
        )


def _bandwidth(threads: int) -> float:
    """GB/s at which these threads read memory: the best sum of an array larger than any cache."""
    from concurrent.futures import ThreadPoolExecutor

    parts = np.array_split(np.ones(1 << 27, np.float32), threads)
    with ThreadPoolExecutor(threads) as pool:
        best = float("inf")
        for _ in range(8):
            begin = time.perf_counter()
            list(pool.map(np.add.reduce, parts))  # numpy releases the interpreter's lock
            best = min(best, time.perf_counter() - begin)
    return 4 * (1 << 27) / best / 1e9


if __name__ == "__main__":
    main()
