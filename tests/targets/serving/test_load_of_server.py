"""`bench URL` against our server: its counts are those of the server's own counters."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgewright.benchmarks.endpoint.figures import load_metrics
from edgewright.benchmarks.endpoint.latency import prepare
from edgewright.benchmarks.endpoint.load import LoadResult
from edgewright.benchmarks.endpoint.options import Load, LoadOptions
from edgewright.benchmarks.endpoint.server import open_server
from edgewright.checkpoints.config import BUILTIN_MODEL, model_path
from edgewright.export.onnx.export import export_onnx
from edgewright.targets.serving.counters import WorkCounters
from edgewright.targets.serving.service import Service

from server_helpers import ask, running  # isort: skip


@pytest.fixture(scope="module")
def reasoner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("load") / "reasoner"
    export_onnx(Path(model_path(BUILTIN_MODEL)), out, "fp32")
    return out


@pytest.fixture(scope="module")
def port(reasoner: Path) -> Iterator[int]:
    with running(Service(reasoner, 1, max_batch=4)) as found:
        yield found.port


def counters(port: int) -> dict[str, float]:
    """The server's counters by name; those of several labels together."""
    found: dict[str, float] = {}
    for line in ask(port, "/metrics", method="GET").text.splitlines():
        name, _, value = line.rpartition(" ")
        if not line.startswith("#"):
            name = name.partition("{")[0].removeprefix("edgewright_")
            found[name] = found.get(name, 0.0) + float(value)
    return found


def measured(port: int, load: Load, **options: Any) -> tuple[LoadResult, dict[str, float]]:
    """A load without warm-up, and what the server's counters say of it alone."""

    async def run() -> tuple[LoadResult, dict[str, float]]:
        chosen = LoadOptions(warm_up=0, requests=6, output_tokens=12, prompt_tokens=24, **options)
        server = open_server(f"http://127.0.0.1:{port}", chosen)
        requests = await prepare(server)
        before = counters(port)
        result = await requests.put(load)
        server.client.close()
        return result, {name: value - before[name] for name, value in counters(port).items()}

    return asyncio.run(run())


@pytest.mark.parametrize("load", [Load(1), Load(4), Load(rate=50.0)], ids=lambda load: load.name)
def test_the_counts_are_those_of_the_server(port: int, reasoner: Path, load: Load) -> None:
    result, counted = measured(port, load, tokenizer=reasoner)
    assert [one.error for one in result.timings] == [""] * 6
    assert counted["requests_total"] == 6
    assert counted["prompt_tokens"] == 6 * 24
    written = sum(one.output_tokens for one in result.done)
    by_usage = all(one.counted == "usage" for one in result.done)
    assert written == pytest.approx(counted["generated_tokens"], rel=0 if by_usage else 0.05)
    assert counted["later_tokens"] == counted["generated_tokens"] - 6
    metrics = load_metrics(result)
    assert metrics[f"ttft_ms/p99/{load.name}"] > 0
    # A token arrives after it was made: no client can see the first one sooner than the server.
    assert sum(one.ttft for one in result.done) >= counted["first_token_seconds_sum"]


def test_chats_are_measured(port: int) -> None:
    result, counted = measured(port, Load(2), api="chat")
    assert [one.error for one in result.timings] == [""] * 6
    assert counted["requests_total"] == 6
    read = [one.usage.prompt_tokens for one in result.done]
    assert counted["prompt_tokens"] == (sum(read) if None not in read else 6 * 24)


class Row:
    """A sequence with a prompt of some tokens."""

    def __init__(self, count: int) -> None:
        self.ids = list(range(count))


def test_the_seconds_between_tokens_are_added_up_by_sequence() -> None:
    now = 10.0
    work = WorkCounters(lambda: now)
    first = Row(3)
    second = Row(1)
    work.wrote(first)
    now = 12.0
    work.wrote(first)
    work.wrote(second)
    now = 15.0
    work.wrote(first)
    work.wrote(second)
    assert (work.prompt_tokens, work.later_tokens) == (4, 3)
    assert work.later_seconds == (12 - 10) + 2 * (15 - 12)
    del first
    del second
    assert not work._latest, "nothing is kept of a sequence that has ended"
