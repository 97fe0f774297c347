"""Puts a load on a server: so many requests at the same time, or so many arrivals a second.

A closed loop keeps the concurrency constant: the next request is sent when one ends
(`--concurrency` of GenAI-Perf, `--max-concurrency` of vLLM's `bench serve`). An open loop sends
requests when they are due, however many are running: the intervals are exponential, so that
arrivals are a Poisson process (`--request-rate` of both, with burstiness 1 in vLLM).
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

from ...console import Bar
from .connection import Clock
from .options import Load
from .timing import RequestTiming

__all__ = ["LoadResult", "Shape", "arrivals", "put_load"]

Ask = Callable[[int], Awaitable[RequestTiming]]
"""Sends the request of a number."""


@dataclass(frozen=True)
class Shape:
    """A load.

    Attributes:
        load: a concurrency, or a rate of arrivals.
        count: the number of requests.
        seed: of the intervals between arrivals.
        deadline: when no request is sent any more, by the clock.
    """

    load: Load
    count: int
    seed: int
    deadline: float = math.inf


@dataclass
class LoadResult:
    """What happened under a load.

    Attributes:
        load: see `Shape`.
        timings: the requests that were sent.
        seconds: from the first request to the end of the last.
        late: seconds that a request was sent after it was due, at most.
    """

    load: Load
    timings: list[RequestTiming] = field(default_factory=list)
    seconds: float = 0.0
    late: float = 0.0

    @property
    def name(self) -> str:
        """The load in the names of metrics."""
        return self.load.name

    @property
    def done(self) -> list[RequestTiming]:
        """The requests that did not fail."""
        return [one for one in self.timings if not one.error]


def arrivals(rate: float, seed: int, count: int) -> Iterator[float]:
    """Seconds after the beginning at which requests are due."""
    source = random.Random(f"arrivals/{seed}")
    due = 0.0
    for _ in range(count):
        yield due
        due += 0.0 if math.isinf(rate) else source.expovariate(rate)


async def put_load(shape: Shape, ask: Ask, clock: Clock, bar: Bar) -> LoadResult:
    """Send the requests of a load, and wait until all have ended.

    Args:
        shape: the load.
        ask: sends a request; it must not raise.
        clock: of the times.
        bar: advances with each request.
    """
    result = LoadResult(shape.load)

    async def one(number: int) -> None:
        result.timings.append(await ask(number))
        bar.advance()

    begin = clock()
    if shape.load.concurrency:
        numbers = iter(range(shape.count))

        async def worker() -> None:
            for number in numbers:
                if clock() >= shape.deadline:
                    return
                await one(number)

        await asyncio.gather(*(worker() for _ in range(shape.load.concurrency)))
    else:
        running: list[asyncio.Task[None]] = []
        for number, due in enumerate(arrivals(shape.load.rate, shape.seed, shape.count)):
            wait = min(begin + due, shape.deadline) - clock()
            if wait > 0:
                await asyncio.sleep(wait)
            if clock() >= shape.deadline:
                break
            result.late = max(result.late, clock() - begin - due)
            running.append(asyncio.create_task(one(number)))
        await asyncio.gather(*running)
    result.seconds = clock() - begin
    return result
