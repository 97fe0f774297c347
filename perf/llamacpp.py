r"""Compare an ONNX Runtime artifact with llama.cpp (GGUF files of the same model) in speed.

    python -m edgewright.perf.llamacpp ARTIFACT model-Q4_K_M.gguf model-Q4_0.gguf \
        --llamacpp-python .compat/llama/bin/python

Each side runs in a process of its own with the same number of threads. A round is one prompt and
some tokens after it, at batch 1; the sides take turns. The output is the tokens per second of each,
how many times as fast the artifact is (the geometric mean over the rounds with its 95 % interval,
by bootstrap over the rounds), and the share of an upper bound: how often per second the threads can
read as many bytes as the weights that a token needs.

llama.cpp comes from the package xllamacpp or llama-cpp-python, whichever that environment has.
What its own seconds are is said in `llamacpp_worker.py`; ours are by the clock of our process.
Wheels for all processors know nothing beyond AVX2. So build llama.cpp with the processor's
instructions, else the comparison flatters us; a line of the output warns. For llama-cpp-python:
CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_AVX512=ON -DGGML_AVX512_VNNI=ON".
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import numpy as np

from ..benchmarks.bootstrap import Interval, bounds, resample
from ..benchmarks.latency.latency import Worker, take_turns, warm_up
from ..benchmarks.latency.worker import Round, synthetic_prompt
from .bandwidth import artifact_bytes, gguf_bytes, read_speed

WORKER = Path(__file__).with_name("llamacpp_worker.py")
RESAMPLES = 10_000
EACH_BOUND = 0.975
"""Confidence of each bound. Both together hold at 95 %."""
LARGE = 1 << 30
"""Bytes of an array that most caches do not hold."""
INSTRUCTIONS = {
    "avx512f": "AVX512",
    "avx512_vnni": "AVX512_VNNI",
    "avx_vnni": "AVX_VNNI",
    "amx_int8": "AMX_INT8",
}
"""Instructions that quantized products use: Linux's name -> llama.cpp's name."""


class Llama:
    """llama.cpp in a process of its own, which runs rounds on request."""

    def __init__(self, python: Path, file: Path, threads: int, context: int) -> None:
        command = [str(python), "-I", str(WORKER), str(file), str(threads), str(context)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.loaded: dict[str, Any] = self._receive()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def round(self, prompt: list[int], new_tokens: int) -> Round:
        """Time a prompt and the tokens after it."""
        assert self._process.stdin is not None
        request = {"prompt": prompt, "new_tokens": new_tokens}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return Round(**self._receive())

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("the llama.cpp process ended; its output is above")
        return json.loads(line)


def main() -> None:
    """Measure all sides in turns, and print the results."""
    args = _arguments()
    shape = {"prompt": args.prompt, "new_tokens": args.new_tokens, "batch": 1}
    vocabulary = json.loads((args.artifact / "config.json").read_text())["vocab_size"]
    (prompt,) = synthetic_prompt(1, args.prompt, vocabulary)
    context = args.prompt + args.new_tokens + 64
    sizes = [artifact_bytes(args.artifact), *map(gguf_bytes, args.gguf)]
    before = [read_speed(size, args.threads) for size in (*sizes, LARGE)]
    with ExitStack() as stack:
        ours = stack.enter_context(Worker(args.artifact, "cpu", args.threads))
        others = [
            stack.enter_context(Llama(args.llamacpp_python, file, args.threads, context))
            for file in args.gguf
        ]
        _print_build(others[0].loaded)
        sides = [
            lambda: ours.round(shape),
            *(lambda one=one: one.round(prompt, args.new_tokens) for one in others),
        ]
        for side in sides:
            warm_up(side)
        timed = take_turns(sides, args.rounds)
    after = [read_speed(size, args.threads) for size in (*sizes, LARGE)]
    *speeds, large = map(max, before, after)
    print(f"{args.threads} threads read {LARGE / 1e9:.1f} GB at {large / 1e9:.1f} GB/s")
    for name, rounds, size, speed in zip(
        (args.artifact, *args.gguf), timed, sizes, speeds, strict=True
    ):
        print(f"{name}: {_described(rounds, args.prompt, size, speed)}")
    for file, theirs in zip(args.gguf, timed[1:], strict=True):
        _print_ratios(file, timed[0], theirs)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("artifact", type=Path)
    parser.add_argument("gguf", type=Path, nargs="+")
    parser.add_argument(
        "--llamacpp-python",
        type=Path,
        required=True,
        help="Python interpreter of an environment with xllamacpp or llama-cpp-python",
    )
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=15, help="at least 2, for an interval")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def _print_build(loaded: dict[str, Any]) -> None:
    """Print what runs llama.cpp, and which of the processor's instructions it was built without."""
    print(f"{loaded['package']}, timed by {loaded['clock']}; built for {loaded['system'].strip()}")
    file = Path("/proc/cpuinfo")
    has = set(file.read_text().split()) if file.exists() else set[str]()
    unused = [
        name
        for flag, name in INSTRUCTIONS.items()
        if flag in has and f"{name} = 1" not in loaded["system"]
    ]
    if unused:
        print(f"warning: this llama.cpp does not use {', '.join(unused)}, which the processor has")


def _described(rounds: list[Round], prompt: int, size: int, speed: float) -> str:
    """The speed of a side, and which share of the memory's bound it reaches."""
    decode = statistics.median(len(one.tokens) / sum(one.tokens) for one in rounds)
    prefill = prompt / statistics.median(one.first for one in rounds)
    bound = speed / size
    return (
        f"decode {decode:.1f} tok/s, prefill {prefill:.0f} tok/s; {size / 1e6:.0f} MB of weights "
        f"per token at {speed / 1e9:.1f} GB/s allow {bound:.0f} tok/s: {decode / bound:.0%} of that"
    )


def _print_ratios(file: Path, ours: list[Round], theirs: list[Round]) -> None:
    for what, seconds in {
        "decode": lambda one: sum(one.tokens),
        "prefill": lambda one: one.first,
    }.items():
        ratio, interval = _times_as_fast(
            [seconds(one) for one in ours], [seconds(one) for one in theirs]
        )
        print(
            f"{what}: the artifact is {ratio:.2f} times as fast as {file.name} "
            f"(95 % interval {interval.low:.2f} to {interval.high:.2f})"
        )


def _times_as_fast(ours: list[float], theirs: list[float]) -> tuple[float, Interval]:
    """The geometric mean of the ratios of rounds, and its interval over rounds drawn again."""
    ratios = np.log(np.divide(theirs, ours))
    draws = resample(ratios[:, None], RESAMPLES, seed=0)[:, 0] / len(ratios)
    found = bounds(draws, len(ratios), EACH_BOUND)
    return float(np.exp(ratios.mean())), Interval(*np.exp([found.low, found.high]).tolist())


if __name__ == "__main__":
    main()
