"""A measurement of a server: times against the server's own, counts, prompts, and requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import pytest
from scripted_server import (
    CLOSE,
    HEAD,
    Asked,
    ScriptedServer,
    document,
    good,
    prompt_length,
    serving,
    text_event,
    usage_event,
)

from edgewright.benchmarks.endpoint.latency import bench_server, measure_server
from edgewright.benchmarks.endpoint.options import LoadOptions
from edgewright.benchmarks.endpoint.server import open_server
from edgewright.benchmarks.latency.timing import percentile
from edgewright.benchmarks.metrics import find


def bench(server: ScriptedServer, **options: Any) -> dict[str, Any]:
    options = {"concurrency": (1,), "requests": 4, "output_tokens": 4, **options}
    with serving(server):
        return bench_server(server.url, LoadOptions(**options), None)


class SteppedClock:
    """A clock that the server moves, and that tells it when the client has looked."""

    def __init__(self) -> None:
        self.now = 100.0
        self.reads = 0

    def __call__(self) -> float:
        self.reads += 1
        return self.now

    async def at(self, time: float, part: bytes) -> AsyncIterator[bytes]:
        """Send a part at a time, and wait until the client has received it."""
        self.now = time
        before = self.reads
        yield part
        while self.reads == before:
            await asyncio.sleep(0.001)


STEPS = ((0.5, 0.75, 1.0), (0.25, 0.5, 2.0), (1.0, 1.25, 1.5), (3.0, 3.5, 4.5))
"""Of each request: seconds at which its three tokens are sent."""


def test_the_times_are_exactly_those_of_the_server() -> None:
    clock = SteppedClock()
    steps = iter(STEPS)

    async def answer(asked: Asked) -> AsyncIterator[bytes]:
        if not asked.streams or asked is scripted.streamed[0]:  # what it asks before the load
            async for part in good(asked):
                yield part
            return
        sent = clock.now
        async for part in clock.at(sent + 0.125, HEAD + b"\r\n"):
            yield part
        for after in next(steps):
            async for part in clock.at(sent + after, text_event("a")):
                yield part
        last = usage_event(prompt_length(asked), 3) + b"data: [DONE]\n\n"
        async for part in clock.at(clock.now + 8.0, last):
            yield part
        yield CLOSE

    options = LoadOptions(concurrency=(1,), requests=4, warm_up=0, output_tokens=3)
    with serving(ScriptedServer(answer)) as scripted:
        server = open_server(scripted.url, options)
        server.client.clock = clock
        found = asyncio.run(measure_server(server))["metrics"]
    firsts = [first for first, *_ in STEPS]
    gaps = [b - a for step in STEPS for a, b in pairwise(step)]
    ends = [end for *_, end in STEPS]
    per_token = [(end - first) / 2 for first, _, end in STEPS]
    for kind, values in (("ttft", firsts), ("itl", gaps), ("tpot", per_token), ("e2e", ends)):
        for share in (50, 90, 99):
            name = f"{kind}_ms/p{share}/concurrency1"
            assert found[name] == pytest.approx(percentile(values, share / 100) * 1000)
    seconds = sum(ends) + 4 * 8.0
    assert found["output_tok_s/concurrency1"] == pytest.approx(12 / seconds)
    assert found["requests_s/concurrency1"] == pytest.approx(4 / seconds)


def test_no_time_is_shorter_or_longer_than_the_server_can_explain() -> None:
    """By one clock: a token arrives after it was sent, and before what the client does next."""

    async def answer(asked: Asked) -> AsyncIterator[bytes]:
        async for part in good(asked):
            yield part
            await asyncio.sleep(0.005)

    scripted = ScriptedServer(answer)
    with serving(scripted):
        options = LoadOptions(concurrency=(1,), requests=6, warm_up=1, output_tokens=4)
        found = bench_server(scripted.url, options, None)["metrics"]
    timed = scripted.streamed[-6:]
    waits = [one.sent[1] - one.received for one in timed]
    assert found["ttft_ms/p50/concurrency1"] >= percentile(waits, 0.5) * 1000
    lasts = [one.sent[-2] - one.received for one in timed]
    assert found["e2e_ms/p50/concurrency1"] >= percentile(lasts, 0.5) * 1000
    laps = [b.received - a.received for a, b in pairwise(timed)]
    assert found["e2e_ms/p50/concurrency1"] <= max(laps) * 1000
    span = timed[-1].sent[-1] - timed[0].received
    assert found["output_tok_s/concurrency1"] <= 24 / span


def test_every_metric_is_declared_and_has_its_conditions() -> None:
    scripted = ScriptedServer()
    found = bench(scripted, concurrency=(1, 3), request_rate=(200.0, float("inf")))
    loads = ["concurrency1", "concurrency3", "rate200", "rateinf"]
    assert {name.rpartition("/")[2] for name in found["metrics"]} == set(loads)
    assert len(found["metrics"]) == 15 * len(loads)
    assert all(find(name) for name in found["metrics"])
    for load in loads:
        assert found["metrics"][f"failed_requests/{load}"] == 0
        assert found["context"][f"load/{load}"] == {
            "requests": 4,
            "prompt_tokens": 64,
            "output_tokens": 4,
            "tokens_counted": "usage",
        }
    assert found["context"]["endpoint"] == {
        "host": "127.0.0.1",
        "api": "completions",
        "ignore_eos": True,
    }
    assert found["context"]["served_model"] == "tiny"
    assert found["notes"] == []


def test_the_concurrency_is_reached_at_the_server() -> None:
    async def held(asked: Asked) -> AsyncIterator[bytes]:
        while len(scripted.streamed) > 1 and scripted.most_running < 3:
            await asyncio.sleep(0.001)
        async for part in good(asked):
            yield part

    scripted = ScriptedServer(held)
    found = bench(scripted, concurrency=(3,), requests=9, warm_up=0)
    assert found["metrics"]["failed_requests/concurrency3"] == 0
    assert scripted.most_running == 3


def test_warm_up_is_sent_and_not_counted() -> None:
    scripted = ScriptedServer()
    found = bench(scripted, concurrency=(2,), warm_up=5)
    assert len(scripted.streamed) == 1 + 5 + 4, "a probe, the warm-up, the load"
    assert found["context"]["load_details/concurrency2"]["output_tokens"] == 16


def test_connections_are_kept() -> None:
    scripted = ScriptedServer()
    with serving(scripted):
        options = LoadOptions(concurrency=(3,), requests=12, output_tokens=2)
        bench_server(scripted.url, options, None)
        assert scripted.opened <= 3


@pytest.mark.parametrize("api", ["completions", "chat"])
def test_words_are_found_that_have_the_length_by_the_servers_count(api: str) -> None:
    scripted = ScriptedServer()
    found = bench(scripted, api=api, prompt_tokens=50)
    assert found["context"]["load/concurrency1"]["prompt_tokens"] == 50
    assert found["context"]["prompts"] == "words"
    asked = scripted.streamed[1:]
    assert {prompt_length(one) for one in asked} == {50}
    texts = [str(one.body.get("prompt") or one.body["messages"]) for one in asked]
    assert len(set(texts)) == len(texts), "no two prompts are alike"


def test_token_ids_of_the_server_are_used_where_it_tells_them() -> None:
    scripted = ScriptedServer(tokenize=document({"tokens": [5, 6, 7, "8", -1, True]}))
    found = bench(scripted, prompt_tokens=50)
    assert found["context"]["prompts"] == "server"
    for one in scripted.streamed[1:]:
        assert len(one.body["prompt"]) == 50
        assert set(one.body["prompt"]) <= {5, 6, 7}
    again = ScriptedServer(tokenize=document({"tokens": [5, 6, 7]}))
    bench(again, prompt_tokens=50)
    assert [one.body for one in again.streamed] == [one.body for one in scripted.streamed]
    other = ScriptedServer(tokenize=document({"tokens": [5, 6, 7]}))
    bench(other, prompt_tokens=50, seed=1)
    assert other.streamed[1].body != scripted.streamed[1].body
