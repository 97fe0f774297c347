"""The HTTP server: batched answers equal single ones, streams are whole, bad requests get 4xx."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewright.export.onnx.export import export_onnx
from edgewright.export.onnx.runtime import OnnxDecoder
from edgewright.export.onnx.sampling import Sampling
from edgewright.targets.serving.batcher import Batcher, Generation, QueueFull
from edgewright.targets.serving.server import create_app
from edgewright.targets.serving.service import Service
from edgewright.targets.serving.text import TextStream


@pytest.fixture(scope="module")
def artifact(make_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("serve") / "tiny"
    export_onnx(make_model("llama", num_hidden_layers=2), out, "fp32")
    return out


class Answer:
    """Collects what a generation emits."""

    def __init__(self, ids: list[int], max_tokens: int, **sampling: Any) -> None:
        self.tokens: list[int] = []
        self.reason: Any = None
        self.done = threading.Event()
        self.generation = Generation(
            ids, max_tokens, frozenset([0]), Sampling(**sampling), self.take
        )

    def take(self, item: Any) -> None:
        if isinstance(item, int):
            self.tokens.append(item)
        else:
            self.reason = item
            self.done.set()


def prompts(count: int) -> list[list[int]]:
    generator = np.random.default_rng(1)
    return [
        generator.integers(1, 512, int(size)).tolist() for size in generator.integers(1, 40, count)
    ]


@pytest.fixture
def batcher(artifact: Path) -> Iterator[Batcher]:
    running = Batcher(OnnxDecoder(artifact, 1), max_batch=5)
    yield running
    running.close()


def test_rows_that_join_and_leave_do_not_touch_each_other(artifact: Path, batcher: Batcher) -> None:
    alone, answers = OnnxDecoder(artifact, 1), []
    for number, ids in enumerate(prompts(17)):
        answers.append(Answer(ids, 3 + 5 * number % 23))
        batcher.submit(answers[-1].generation)
        if number % 4 == 3:
            answers[-1].done.wait(20)  # so that some join a batch that runs, and some an empty one
    for answer in answers:
        assert answer.done.wait(20)
        ids = np.array([answer.generation.ids])
        expected = alone.generate(ids, np.ones_like(ids), answer.generation.max_tokens, [0])[
            0
        ].tolist()
        assert answer.tokens == [token for token in expected if token != 0]
        assert answer.reason == ("stop" if 0 in expected else "length")
    assert batcher.steps < sum(len(answer.tokens) for answer in answers)


def test_sampling_is_the_seeds_and_nobody_elses(batcher: Batcher) -> None:
    ids = prompts(1)[0]
    first = [Answer(ids, 12, temperature=1.0, seed=seed) for seed in (1, 1, 2)]
    for answer in first:
        batcher.submit(answer.generation)
    assert all(answer.done.wait(20) for answer in first)
    assert first[0].tokens == first[1].tokens != first[2].tokens


def test_a_cancelled_row_leaves(batcher: Batcher) -> None:
    long = Answer(prompts(1)[0], 100_000)
    batcher.submit(long.generation)
    while len(long.tokens) < 3:
        time.sleep(0.001)
    long.generation.cancelled.set()
    assert long.done.wait(20)
    assert len(long.tokens) < 100_000


def test_a_failing_decoder_fails_its_requests_and_serves_the_next(
    artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = OnnxDecoder(artifact, 1)
    batcher = Batcher(decoder)
    bad = Answer([10**6], 4)  # outside the vocabulary: ONNX Runtime's own error
    batcher.submit(bad.generation)
    assert bad.done.wait(20)
    assert isinstance(bad.reason, Exception)
    good = Answer([5, 6], 4)
    batcher.submit(good.generation)
    assert good.done.wait(20)
    assert good.reason in ("stop", "length")
    batcher.close()


def test_too_many_waiting_are_turned_away(artifact: Path) -> None:
    batcher = Batcher(OnnxDecoder(artifact, 1), max_batch=1, max_waiting=2)
    running = [Answer([5], 100_000) for _ in range(4)]
    with pytest.raises(QueueFull):
        for answer in running:
            batcher.submit(answer.generation)
        time.sleep(0.05)
        batcher.submit(running[-1].generation)
        batcher.submit(running[-1].generation)
    for answer in running:
        answer.generation.cancelled.set()
    batcher.close()


# --- text ---


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=20), st.lists(st.text(min_size=1, max_size=3), max_size=2))
def test_streamed_text_is_the_text_before_the_first_stop(text: str, stops: list[str]) -> None:
    """Byte tokens, so that characters arrive in parts."""
    text = text.replace("\ufffd", "")
    raw = list(text.encode())
    stream = TextStream(lambda ids: bytes(ids).decode(errors="replace"), stops)
    pieces = []
    for token in raw:
        pieces.append(stream.add(token))
        if stream.stopped:
            break
    pieces.append(stream.finish())
    ends = [place for place in (text.find(stop) for stop in stops) if place >= 0]
    assert "".join(pieces) == (text[: min(ends)] if ends else text)
    assert stream.stopped == bool(ends)


# --- HTTP ---


@pytest.fixture(scope="module")
def port(artifact: Path) -> Iterator[int]:
    """A running server; requests go over a real socket."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(Service(artifact, 1, max_batch=4)), "127.0.0.1", free, log_level="error"
        )
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield free
    server.should_exit = True
    thread.join()


def call(port: int, path: str, body: Any = None, method: str = "POST") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    data = body if isinstance(body, str | None) else json.dumps(body)
    connection.request(method, path, data, {"Content-Type": "application/json"})
    response = connection.getresponse()
    reply = (response.status, response.read().decode())
    connection.close()
    return reply


def test_whole_and_streamed_answers_are_the_same(port: int, artifact: Path) -> None:
    ids = prompts(1)[0]
    status, reply = call(port, "/v1/completions", {"prompt": ids, "max_tokens": 12})
    whole = json.loads(reply)
    expected = (
        OnnxDecoder(artifact, 1)
        .generate(np.array([ids]), np.ones((1, len(ids)), np.int64), 12, [0])[0]
        .tolist()
    )
    made = [token for token in expected if token != 0]
    assert (status, whole["usage"]["completion_tokens"]) == (200, len(made))
    status, reply = call(port, "/v1/completions", {"prompt": ids, "max_tokens": 12, "stream": True})
    events = [line.removeprefix("data: ") for line in reply.split("\n\n") if line]
    assert (status, events[-1]) == (200, "[DONE]")
    parts = [json.loads(event)["choices"][0] for event in events[:-1]]
    assert "".join(part["text"] for part in parts) == whole["choices"][0]["text"]
    assert parts[-1]["finish_reason"] == whole["choices"][0]["finish_reason"] in ("stop", "length")


def test_chat_goes_through_the_models_template(port: int) -> None:
    status, reply = call(
        port,
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": "1+1"}], "max_tokens": 4},
    )
    assert status == 200, reply
    assert json.loads(reply)["choices"][0]["message"]["role"] == "assistant"
    status, reply = call(
        port,
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": "1+1"}], "max_tokens": 4, "stream": True},
    )
    assert (status, '"delta"' in reply) == (200, True)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("{", 422),
        ("[]", 422),
        ('{"a": "\xff', 400),
        ({}, 422),
        ({"prompt": ""}, 422),
        ({"prompt": []}, 422),
        ({"prompt": [-1]}, 422),
        ({"prompt": 5}, 422),
        ({"prompt": "a", "max_tokens": 0}, 422),
        ({"prompt": "a", "max_tokens": "5"}, 422),
        ({"prompt": "a", "temperature": -1}, 422),
        ({"prompt": "a", "nonsense": 1}, 422),
        ({"prompt": "a", "stop": ""}, 422),
        ({"prompt": "a", "top_p": 0}, 422),
        ({"prompt": [512]}, 422),
        ({"prompt": [5] * 256}, 422),
        ({"prompt": "a " * 400}, 400),
        ({"prompt": "a", "model": "other"}, 404),
        ('{"prompt": "a", "temperature": NaN}', 422),
        ('{"prompt": "\\ud800"}', 422),
    ],
)
def test_malformed_requests_get_4xx(port: int, body: Any, status: int) -> None:
    found, reply = call(port, "/v1/completions", body)
    assert found == status, reply
    assert json.loads(reply)["error"]["message"]


def test_status_pages(port: int) -> None:
    assert json.loads(call(port, "/health", method="GET")[1])["status"] == "ok"
    assert json.loads(call(port, "/v1/models", method="GET")[1])["data"][0]["id"] == "tiny"
    call(port, "/v1/completions", {"prompt": "a", "max_tokens": 3})
    text = call(port, "/metrics", method="GET")[1]
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(lines["edgewright_generated_tokens"]) > 0
    assert (
        sum(
            float(value)
            for name, value in lines.items()
            if name.startswith("edgewright_requests_total")
        )
        > 0
    )
    assert call(port, "/v1/completions", method="GET")[0] == 405


def test_a_client_that_leaves_frees_its_place(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    body = {"prompt": [5, 6], "max_tokens": 200, "stream": True, "temperature": 2.0, "seed": 3}
    connection.request(
        "POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"}
    )
    response = connection.getresponse()
    response.readline()
    connection.sock.close() if connection.sock else response.close()
    response.close()
    for _ in range(200):
        if json.loads(call(port, "/health", method="GET")[1])["running"] == 0:
            return
        time.sleep(0.02)
    raise AssertionError("the sequence still runs")
