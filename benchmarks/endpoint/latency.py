"""Measures the latency of a server with OpenAI's interface under one load after another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...console import Bar, progress
from ...errors import EdgewrightError, UsageError
from ..measurement_files import save_measurement
from .figures import count_tokens, load_context, load_metrics, load_notes
from .load import LoadResult, Shape, put_load
from .options import Load, LoadOptions
from .prompts import Prompts, WordPrompts, choose_prompts
from .server import Server, open_server
from .timing import RequestTiming

__all__ = ["Requests", "bench_server", "measure_server", "prepare"]

PROBE_WORDS = 8
REFUSALS = {
    "ignore_eos": "answers may end before --output-tokens",
    "temperature": "answers are sampled as the server likes",
}
"""Optional fields whose absence changes a figure, and how."""


def bench_server(url: str, options: LoadOptions, save: Path | None) -> dict[str, Any]:
    """Measure a server, and save the result if a file is given.

    Args:
        url: of the server.
        options: the loads and the requests.
        save: the file.

    Returns:
        The measurement: name, metrics, context, samples, notes.

    Raises:
        UsageError: the URL, a key or a number is wrong.
        EdgewrightError: the server cannot be measured, or every request failed.
    """
    _check(options)
    server = open_server(url, options)
    found = asyncio.run(measure_server(server))
    if save:
        save_measurement(save, found)
    return found


def _check(options: LoadOptions) -> None:
    names = [load.name for load in options.loads]
    if len(set(names)) < len(names):
        raise UsageError("a load is given twice", "give each concurrency and each rate once")
    for load in options.loads:
        if options.count(load) < (load.concurrency or 0):
            raise UsageError(
                f"--requests {options.requests}: a concurrency of {load.concurrency} is never "
                "reached with fewer requests",
                "give more --requests, or a smaller --concurrency",
            )


async def measure_server(server: Server) -> dict[str, Any]:
    """Measure a server under every load of its options; see `bench_server`.

    Raises:
        UsageError: as `bench_server`.
        EdgewrightError: as `bench_server`.
    """
    try:
        requests = await prepare(server)
        results = [await requests.put(load) for load in server.options.loads]
    finally:
        server.client.close()
    _refuse_failures(server, results)
    return _measurement(server, results, requests.prompts)


@dataclass(frozen=True)
class Requests:
    """The requests that a server is measured with.

    Attributes:
        server: the server.
        prompts: their prompts.
        count: counts the tokens of a text, if there is a tokenizer.
        deadline: when none is sent any more, by the clock of the client.
    """

    server: Server
    prompts: Prompts
    count: Callable[[str], int] | None
    deadline: float

    async def put(self, load: Load) -> LoadResult:
        """Warm up, and put one load on the server."""
        options = self.server.options
        warm = options.warm_up_count(load)
        total = options.count(load)
        with progress(load.name, warm + total) as bar:
            await self._send(Load(load.concurrency), warm, f"{load.name}/warm-up", bar)
            return await self._send(load, total, load.name, bar)

    async def _send(self, load: Load, count: int, seed: str, bar: Bar) -> LoadResult:
        async def ask(number: int) -> RequestTiming:
            return await self._one(f"{self.server.options.seed}/{seed}/{number}")

        shape = Shape(load, count, self.server.options.seed, self.deadline)
        return await put_load(shape, ask, self.server.client.clock, bar)

    async def _one(self, seed: str) -> RequestTiming:
        left = max(self.deadline - self.server.client.clock(), 0.001)
        timing = await self.server.timed(self.prompts.make(seed), left)
        count_tokens(timing, self.count)
        return timing


async def prepare(server: Server) -> Requests:
    """Find out what a server has and accepts, and choose the prompts.

    Raises:
        UsageError: the tokenizer cannot be used.
        EdgewrightError: the server cannot be measured.
    """
    options = server.options
    deadline = server.client.clock() + options.time_limit
    tokenizer = _tokenizer(options)
    await server.find_model()
    await server.find_accepted(WordPrompts(PROBE_WORDS).make("probe"))
    prompts = await choose_prompts(server, tokenizer)
    return Requests(server, prompts, tokenizer and _counter(tokenizer), deadline)


def _refuse_failures(server: Server, results: list[LoadResult]) -> None:
    if any(result.done for result in results):
        return
    errors = [one.error for result in results for one in result.timings]
    raise EdgewrightError(
        f"{server.address}: all {len(errors)} requests failed: "
        f"{errors[0] if errors else 'none was sent before --time-limit'}",
        "look at the server's log; a lower --concurrency or a higher --request-seconds may help",
    )


def _measurement(server: Server, results: list[LoadResult], prompts: Prompts) -> dict[str, Any]:
    options = server.options
    metrics: dict[str, float] = {}
    context: dict[str, Any] = {**server.context, "prompts": prompts.source}
    context["endpoint"] |= {"ignore_eos": "ignore_eos" in server.accepted}
    notes = [
        f"the server refuses {name}: {what}"
        for name, what in REFUSALS.items()
        if name not in server.accepted
    ]
    for result in results:
        metrics |= load_metrics(result)
        context |= load_context(result, prompts)
    if server.client.resent:
        notes.append(
            f"{server.client.resent} requests were sent again: the server closed their connections "
            "without an answer, as it does with idle ones"
        )
    notes += load_notes(results, options, prompts)
    return {
        "name": str(server.address),
        "metrics": metrics,
        "context": context,
        "samples": {},
        "notes": notes,
    }


def _tokenizer(options: LoadOptions) -> Any | None:
    if options.tokenizer is None:
        return None
    from ...checkpoints.tokenizer import load_tokenizer  # late: slow to import

    return load_tokenizer(options.tokenizer)


def _counter(tokenizer: Any) -> Callable[[str], int]:
    def count(text: str) -> int:
        whole = text.encode("utf-8", "replace").decode()  # a server may send half a character
        return len(tokenizer.encode(whole, add_special_tokens=False, verbose=False))

    return count
