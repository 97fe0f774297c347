"""Measure the latency and memory of a model, or compare the latency of two models.

Each model runs in a process of its own. Two models are compared by measuring them in turns.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ...checkpoints.artifacts import is_gguf, is_graph
from ...errors import EdgewrightError
from ..llama_cpp import llama_server_here
from ..options import LatencyOptions
from .llama_worker import LlamaWorker
from .timing import NOISY, Comparison, compare, percentile, settled, variation
from .worker import Round

__all__ = [
    "Side",
    "Worker",
    "compare_sides",
    "take_turns",
    "time_against",
    "time_alone",
    "warm_up",
]

Side = Callable[[], Round]
"""Runs and times one round of one of the models to compare."""
MAX_WARM_ROUNDS = 20
LOOKS = 5
"""How often a comparison may double its rounds while it is unclear: 16 times `runs` at most."""


class Worker:
    """A model in a process of its own, which runs rounds on request. Leaving the block kills it.

    Args:
        path: checkpoint or ONNX artifact.
        device: device for torch; artifacts always run on the CPU.
        threads: number of threads that the model may use.

    Raises:
        EdgewrightError: in any method, if the process died. The message has its last error line.
    """

    def __init__(self, path: Path, device: str, threads: int) -> None:
        self.path = path
        command = [
            sys.executable,
            "-m",
            "edgewright.benchmarks.latency.worker",
            str(path.resolve()),
            "--threads",
            str(threads),
            "--device",
            "cpu" if is_graph(path) else device,
        ]
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            "TRANSFORMERS_VERBOSITY": "error",
        }
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - open as long as the process
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment,
        )
        self.loaded: dict[str, Any] = self._receive()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def round(self, shape: dict[str, int]) -> Round:
        """Run and time one round of this shape."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(shape) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._died() from None
        return Round(**self._receive())

    def finish(self) -> dict[str, int]:
        """Stop the process; returns phase -> peak resident memory in bytes."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.stdin = None
        return self._receive()

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._died()
        return json.loads(line)

    def _died(self) -> EdgewrightError:
        self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines()
        reason = lines[-1] if lines else "the process was killed, perhaps for lack of memory"
        return EdgewrightError(
            f"{self.path}: the latency measurement failed: {reason}",
            "run `edgewright bench` on it with --debug to see more",
        )


def _worker(
    path: Path, options: LatencyOptions, device: str, threads: int, llama_server: str
) -> Worker | LlamaWorker:
    """What times a model: a process of ours, or llama.cpp's server."""
    if is_gguf(path):
        program = llama_server_here(llama_server)
        return LlamaWorker(path, options, device, threads, program)
    return Worker(path, device, threads)


def warm_up(side: Side, most: int = MAX_WARM_ROUNDS) -> int:
    """Run rounds until they no longer get faster; returns the number of rounds."""
    seconds: list[float] = []
    while len(seconds) < most and not settled(seconds):
        timed = side()
        seconds.append(timed.first + sum(timed.tokens))
    return len(seconds)


def take_turns(sides: Sequence[Side], rounds: int) -> list[list[Round]]:
    """Run `rounds` rounds of each side. The order is reversed each time, so that it cancels out."""
    timed: list[list[Round]] = [[] for _ in sides]
    for number in range(rounds):
        order = range(len(sides)) if number % 2 == 0 else reversed(range(len(sides)))
        for at in order:
            timed[at].append(sides[at]())
    return timed


def time_alone(
    path: Path, options: LatencyOptions, device: str, threads: int, llama_server: str = ""
) -> tuple[dict[str, float], dict[str, Any]]:
    """Measure one model.

    Args:
        path: checkpoint or artifact.
        options: what is timed.
        device: device for torch or llama.cpp.
        threads: number of threads that the model may use.
        llama_server: path of the program that runs a GGUF; empty: on PATH.

    Returns:
        The metrics, and the context that makes them comparable.

    Raises:
        EdgewrightError: the process died, perhaps for lack of memory.
    """
    with _worker(path, options, device, threads, llama_server) as worker:
        warm = warm_up(lambda: worker.round(options.shape()))
        (timed,) = take_turns([lambda: worker.round(options.shape())], options.runs)
        metrics = round_metrics(timed, options.prompt, 1)
        for batch, prompt in options.more_shapes():
            shape = options.shape(batch, prompt)
            warm_up(lambda shape=shape: worker.round(shape))
            (more,) = take_turns([lambda shape=shape: worker.round(shape)], options.runs)
            found = round_metrics(more, prompt, batch)
            metrics |= {
                f"{name}/batch{batch}-prompt{prompt}": found[name]
                for name in ("ttft_ms/p50", "decode_tok_s/p50", "prefill_tok_s")
            }
        peaks = worker.finish()
        loaded = worker.loaded
    metrics |= {"load_s": loaded["load_s"]}
    metrics |= {"peak_rss_bytes": max(peaks.values())} if peaks else {}
    metrics |= {f"peak_rss_bytes/{phase}": value for phase, value in peaks.items()}
    noisy = [name for name in ("ttft_ms", "decode_tok_s") if metrics[f"{name}/cv"] > NOISY]
    shape = {
        "prompt": options.prompt,
        "new_tokens": options.new_tokens,
        "runs": options.runs,
        "batch": 1,
    }
    return metrics, {
        "latency": shape,
        "affinity": loaded["affinity"],
        "warm_rounds": warm,
        **({"noisy": noisy} if noisy else {}),
    }


def round_metrics(rounds: Sequence[Round], prompt: int, batch: int) -> dict[str, float]:
    """The metrics of rounds of one shape: milliseconds and tokens per second, by ledger name."""
    first = [one.first * 1000 for one in rounds]
    rates = [batch * len(one.tokens) / sum(one.tokens) for one in rounds]
    joules = [
        one.joules / (batch * (1 + len(one.tokens))) for one in rounds if one.joules is not None
    ]
    every = [seconds * 1000 for one in rounds for seconds in one.tokens]
    return {
        **{f"ttft_ms/p{share}": percentile(first, share / 100) for share in (50, 90, 99)},
        "ttft_ms/cv": variation(first),
        "prefill_tok_s": batch * prompt / (statistics.median(first) / 1000),
        "decode_tok_s/p50": statistics.median(rates),
        "decode_tok_s/cv": variation(rates),
        **{f"token_ms/p{share}": percentile(every, share / 100) for share in (50, 90, 99)},
        **({"joules_per_token": statistics.median(joules)} if joules else {}),
    }


def time_against(
    path: Path,
    other: Path,
    options: LatencyOptions,
    device: str,
    threads: int,
    llama_server: str = "",
) -> dict[str, Any]:
    """Measure two models in turns. Arguments are those of `time_alone`.

    Returns:
        `ttft` and `decode`: each a `Comparison` of the first model's seconds with the other's.

    Raises:
        EdgewrightError: a process died.
    """
    with ExitStack() as stack:
        workers = [
            stack.enter_context(_worker(one, options, device, threads, llama_server))
            for one in (path, other)
        ]
        found = compare_sides(
            [lambda worker=worker: worker.round(options.shape()) for worker in workers],
            max(options.runs, 8),
        )
    return {name: asdict(one) for name, one in found.items()}


def compare_sides(sides: Sequence[Side], rounds: int) -> dict[str, Comparison]:
    """Warm up two sides and compare them, with more rounds as long as a comparison is unclear.

    Looking at the data repeatedly finds a difference by accident more often than the confidence
    of the interval says. With an interval of 99 %, a margin, and at most five looks, each at twice
    as many rounds as the last, this happens in less than 2 % of comparisons.
    """
    for side in sides:
        warm_up(side)
    timed: list[list[Round]] = [[], []]
    found: dict[str, Comparison] = {}
    for _ in range(LOOKS):
        for side, more in zip(timed, take_turns(sides, max(rounds, len(timed[0]))), strict=True):
            side += more
        mine, other = timed
        first = compare([one.first for one in mine], [one.first for one in other])
        decode = compare([sum(one.tokens) for one in mine], [sum(one.tokens) for one in other])
        found = {"ttft": first, "decode": decode}
        if all(one.verdict != "unclear" for one in found.values()):
            break
    return found
