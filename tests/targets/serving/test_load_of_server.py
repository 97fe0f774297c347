"""`bench URL` against our server: its counts and its scores are those of the server itself."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgewright.benchmarks.endpoint.figures import load_metrics
from edgewright.benchmarks.endpoint.latency import prepare
from edgewright.benchmarks.endpoint.load import LoadResult
from edgewright.benchmarks.endpoint.measure import bench_url
from edgewright.benchmarks.endpoint.options import Load, LoadOptions
from edgewright.benchmarks.endpoint.server import open_server
from edgewright.benchmarks.measure import measure
from edgewright.benchmarks.measurement_files import answers_file, load_measurement
from edgewright.benchmarks.options import EvaluateOptions
from edgewright.checkpoints.config import BUILTIN_MODEL, model_path
from edgewright.errors import UsageError
from edgewright.export.onnx.export import export_onnx
from edgewright.targets.serving.counters import WorkCounters
from edgewright.targets.serving.service import Service

from server_helpers import ask, running  # isort: skip

pytest_plugins = ["serving_fixtures"]
PLAIN = (
    "{% for m in messages %}<|user|>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""A chat template of a model that does not think first."""
SPECIAL = re.compile(r"<\|\w+\|>")
"""Special tokens, which servers leave out of texts."""


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


def test_chats_have_the_score_of_the_artifact_itself(
    port: int, reasoner: Path, tmp_path: Path
) -> None:
    options = EvaluateOptions(tasks=("reasoning",), limit=6, latency=None)
    here = measure(reasoner, options)
    url = f"http://127.0.0.1:{port}"
    there = bench_url(url, options, LoadOptions(), tmp_path / "new.json")
    assert there["samples"] == here.samples
    for name in ("accuracy/reasoning", "accuracy/reasoning/n"):
        assert there["metrics"][name] == here.metrics[name]
    for name in ("problems_hash/reasoning", "max_new_tokens/reasoning"):
        assert there["context"][name] == here.context[name]
    assert load_measurement(str(tmp_path / "new.json"))["metrics"] == there["metrics"]
    with pytest.raises(UsageError, match="</think>"):
        bench_url(url, options, LoadOptions(api="completions", tokenizer=reasoner), None)


def test_completions_have_the_answers_of_the_artifact_itself(served: Path, tmp_path: Path) -> None:
    file = tmp_path / "sums.jsonl"
    rows = [{"question": f"{a}+{a}?", "answer": f"#### {2 * a}"} for a in range(4)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = EvaluateOptions(tasks=(f"qa:{file}",), limit=4, max_new_tokens=12, latency=None)
    plain = shutil.copytree(served, tmp_path / "plain")
    (plain / "chat_template.jinja").write_text(PLAIN)
    here = [SPECIAL.sub("", one["text"]) for one in measure(plain, options).answers]
    load = LoadOptions(api="completions", tokenizer=plain)
    with running(Service(plain, 1, max_batch=4)) as server:
        bench_url(f"http://127.0.0.1:{server.port}", options, load, tmp_path / "new.json")
    kept = answers_file(tmp_path / "new.json").read_text().splitlines()
    assert [json.loads(line)["text"] for line in kept] == here
    assert any(here)


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
