"""Loads: constant concurrency, arrivals at random, and the time limit, without a server."""

from __future__ import annotations

import asyncio
import math
from itertools import pairwise
from statistics import fmean, pstdev

import pytest

from edgewright.benchmarks.endpoint.load import LoadResult, Shape, arrivals, put_load
from edgewright.benchmarks.endpoint.options import Load, LoadOptions
from edgewright.benchmarks.endpoint.timing import RequestTiming
from edgewright.console import progress


class Requests:
    """Requests that take some turns of the event loop, and a clock that counts requests."""

    def __init__(self) -> None:
        self.running = 0
        self.seen: list[int] = []
        self.numbers: list[int] = []
        self.now = 0.0

    def clock(self) -> float:
        return self.now

    async def ask(self, number: int) -> RequestTiming:
        self.numbers.append(number)
        self.running += 1
        self.seen.append(self.running)
        for _ in range(3 + number % 4):
            await asyncio.sleep(0)
        self.running -= 1
        self.now += 1.0
        return RequestTiming(error="odd" if number % 2 else "")


def put(requests: Requests, load: Load, count: int, deadline: float = math.inf) -> LoadResult:
    with progress("test", count) as bar:
        shape = Shape(load, count, 0, deadline)
        return asyncio.run(put_load(shape, requests.ask, requests.clock, bar))


@pytest.mark.parametrize("concurrency", [1, 4, 16])
def test_a_closed_loop_keeps_the_concurrency(concurrency: int) -> None:
    requests = Requests()
    result = put(requests, Load(concurrency), 40)
    assert sorted(requests.numbers) == list(range(40))
    assert max(requests.seen) == concurrency
    assert requests.seen[concurrency:] == [concurrency] * (40 - concurrency)
    assert len(result.timings) == 40
    assert len(result.done) == 20
    assert result.seconds == 40.0
    assert result.name == f"concurrency{concurrency}"


def test_no_request_is_sent_after_the_deadline() -> None:
    requests = Requests()
    result = put(requests, Load(2), 40, deadline=10.0)
    assert 10 <= len(result.timings) <= 11
    assert put(Requests(), Load(rate=5.0), 40, deadline=0.0).timings == []


def test_all_at_once() -> None:
    requests = Requests()
    put(requests, Load(rate=math.inf), 25)
    assert max(requests.seen) == 25


def test_arrivals_are_a_poisson_process_of_the_seed() -> None:
    due = list(arrivals(4.0, 3, 20_000))
    gaps = [b - a for a, b in pairwise(due)]
    assert due[0] == 0.0
    assert fmean(gaps) == pytest.approx(0.25, rel=0.03)
    assert pstdev(gaps) == pytest.approx(0.25, rel=0.03), "exponential: as large as the mean"
    assert due == list(arrivals(4.0, 3, 20_000))
    assert due != list(arrivals(4.0, 4, 20_000))


def test_requests_are_sent_when_they_are_due() -> None:
    """A sleep never ends early, so no request is early; and lateness is recorded."""
    sent: list[float] = []

    async def run() -> LoadResult:
        clock = asyncio.get_running_loop().time

        async def ask(_: int) -> RequestTiming:
            sent.append(clock())
            return RequestTiming()

        with progress("test", 20) as bar:
            shape = Shape(Load(rate=200.0), 20, 1)
            sent.insert(0, clock())
            return await put_load(shape, ask, clock, bar)

    result = asyncio.run(run())
    begin, *rest = sent
    due = list(arrivals(200.0, 1, 20))
    resolution = 0.002
    assert all(at - begin >= one - resolution for at, one in zip(rest, due, strict=True))
    assert result.late >= 0.0


def test_loads_and_defaults() -> None:
    assert LoadOptions().loads == (Load(1), Load(4), Load(16))
    assert LoadOptions(request_rate=(2.5, math.inf)).loads == (Load(rate=2.5), Load(rate=math.inf))
    both = LoadOptions(concurrency=(2,), request_rate=(1.0,))
    assert [load.name for load in both.loads] == ["concurrency2", "rate1"]
    assert [both.count(load) for load in (Load(2), Load(16), Load(rate=1.0))] == [10, 32, 10]
    assert [both.warm_up_count(load) for load in (Load(4), Load(rate=1.0))] == [4, 1]
    assert LoadOptions(warm_up=0, requests=3).warm_up_count(Load(4)) == 0
    assert LoadOptions(warm_up=0, requests=3).count(Load(16)) == 3
