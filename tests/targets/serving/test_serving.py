"""The HTTP server: batched answers equal single ones, streams are whole, bad requests get 4xx."""

from __future__ import annotations

import http.client
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgewright.export.onnx.runtime import OnnxDecoder

from server_helpers import ask, prompts  # isort: skip

pytest_plugins = ["serving_fixtures"]


def call(port: int, path: str, body: Any = None, method: str = "POST") -> tuple[int, str]:
    reply = ask(port, path, body, method)
    return reply.status, reply.text


def test_whole_and_streamed_answers_are_the_same(port: int, served: Path) -> None:
    ids = prompts(1)[0]
    status, reply = call(port, "/v1/completions", {"prompt": ids, "max_tokens": 12})
    whole = json.loads(reply)
    expected = (
        OnnxDecoder(served, 1)
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
        ("{", 400),
        ("[]", 400),
        ('{"a": "\xff', 400),
        ({}, 400),
        ({"prompt": ""}, 400),
        ({"prompt": []}, 400),
        ({"prompt": [-1]}, 400),
        ({"prompt": 5}, 400),
        ({"prompt": "a", "max_tokens": 0}, 400),
        ({"prompt": "a", "max_tokens": "5"}, 400),
        ({"prompt": "a", "temperature": -1}, 400),
        ({"prompt": "a", "nonsense": 1}, 400),
        ({"prompt": "a", "stop": ""}, 400),
        ({"prompt": "a", "top_p": 0}, 400),
        ({"prompt": [512]}, 400),
        ({"prompt": [5] * 256}, 400),
        ({"prompt": "a " * 400}, 400),
        ({"prompt": "a", "model": "other"}, 404),
        ('{"prompt": "a", "temperature": NaN}', 400),
        ('{"prompt": "\\ud800"}', 400),
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
