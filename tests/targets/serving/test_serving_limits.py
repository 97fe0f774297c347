"""What one request may ask for: beyond it the answer is a 4xx in OpenAI's error object."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgewright.targets.serving.options import ServeLimits
from edgewright.targets.serving.service import Service

from server_helpers import Running, ask, running, until  # isort: skip

pytest_plugins = ["serving_fixtures"]
PATHS = {"/v1/completions": "prompt", "/v1/chat/completions": "messages"}
LIMITS = ServeLimits(
    max_body_bytes=20_000,
    max_prompt_characters=900,
    max_messages=5,
    max_stops=3,
    max_stop_characters=10,
    max_new_tokens=40,
)


@pytest.fixture(scope="module")
def server(served: Path) -> Iterator[Running]:
    with running(Service(served, 1, max_batch=2, limits=LIMITS)) as found:
        yield found


def body(path: str, **more: Any) -> dict[str, Any]:
    """A small request."""
    prompt = "a" if path == "/v1/completions" else [{"role": "user", "content": "a"}]
    return {PATHS[path]: prompt, "max_tokens": 2, **more}


def turns(count: int, content: str = "a") -> list[dict[str, str]]:
    return [{"role": "user", "content": content}] * count


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[" * 9000,
        b'{"prompt": "a", "prompt": "b"}',
        b'{"temperature": NaN}',
        b'{"temperature": Infinity}',
        b'{"max_tokens": 1e999}',
        b'{"max_tokens": ' + b"9" * 5000 + b"}",
        b'{"prompt": "\\ud800"}',
        b'{"messages": [{"role": "user", "content": "\\udfff a"}]}',
        b'{"messages": [{"role": "\\ud800", "content": "a"}]}',
        b'{"prompt": "\xff"}',
        '{"prompt": "a"}'.encode("utf-32"),
        b"prompt=a",
    ],
)
def test_what_is_no_plain_json_is_a_400(server: Running, path: str, raw: bytes) -> None:
    reply = ask(server.port, path, raw)
    assert (reply.status, reply.error["code"]) == (400, "invalid_request")
    assert reply.error["type"] == "invalid_request_error"


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "kind", ["text/plain", "", "application/jsonx", "multipart/form-data; boundary=x"]
)
def test_another_content_type_is_a_400(server: Running, path: str, kind: str) -> None:
    reply = ask(server.port, path, body(path), Content_Type=kind)
    assert reply.status == 400
    assert "application/json" in reply.error["message"]
    assert ask(server.port, path, body(path), Content_Type="Application/JSON ; a=b").status == 200


@pytest.mark.parametrize(
    ("path", "more", "param", "code"),
    [
        ("/v1/completions", {"prompt": "a" * 901}, "prompt", "string_above_max_length"),
        ("/v1/completions", {"prompt": ["a"] * 9}, "prompt", "array_above_max_length"),
        ("/v1/completions", {"prompt": ["a"] * 5, "n": 2}, "n", "invalid_value"),
        ("/v1/completions", {"prompt": "a " * 440}, "prompt", "context_length_exceeded"),
        ("/v1/completions", {"logprobs": 21}, "logprobs", "number_above_max_value"),
        *(
            ("/v1/chat/completions", {"messages": sent}, "messages", code)
            for sent, code in (
                (turns(1, "a" * 901), "string_above_max_length"),
                (turns(2, "a" * 451), "string_above_max_length"),
                (turns(6), "array_above_max_length"),
                ([], "array_below_min_length"),
            )
        ),
        *((path, {"stop": ["a"] * 4}, "stop", "array_above_max_length") for path in PATHS),
        *((path, {"stop": "a" * 11}, "stop", "string_above_max_length") for path in PATHS),
        *((path, {"stop": ["a", "b" * 11]}, "stop.1", "string_above_max_length") for path in PATHS),
        *((path, {"max_tokens": 41}, "max_tokens", "number_above_max_value") for path in PATHS),
        *((path, {"n": 9}, "n", "number_above_max_value") for path in PATHS),
        *((path, {"padding": "a" * 20_000}, None, "request_too_large") for path in PATHS),
    ],
)
def test_more_than_a_limit_is_refused(
    server: Running, path: str, more: dict[str, Any], param: str | None, code: str
) -> None:
    reply = ask(server.port, path, body(path, **more))
    assert reply.status == (413 if param is None else 400)
    assert (reply.error["param"], reply.error["code"]) == (param, code)


@pytest.mark.parametrize("path", PATHS)
def test_a_request_at_its_limits_is_served(server: Running, path: str) -> None:
    most: dict[str, Any] = {"stop": ["b" * 10, "c", "d"], "max_tokens": 40}
    if path == "/v1/chat/completions":
        most["messages"] = turns(5, "a" * 9)
    reply = ask(server.port, path, body(path, **most))
    assert reply.status == 200, reply.text


def test_a_large_body_without_a_length_is_refused_too(server: Running) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    chunks = (b'"' + b"a" * 1000 for _ in range(200))
    connection.request(
        "POST", "/v1/completions", chunks, {"Content-Type": "application/json"}, encode_chunked=True
    )
    reply = connection.getresponse()
    assert reply.status == 413
    assert json.loads(reply.read())["error"]["code"] == "request_too_large"
    connection.close()


def test_many_faults_make_a_short_answer(server: Running) -> None:
    for more in (
        {"prompt": ["x"] * 3000},
        {f"field{i}": 1 for i in range(60)},
        {"a" * 15_000: 1},
        {"model": "m" * 15_000},
    ):
        reply = ask(server.port, "/v1/completions", body("/v1/completions", **more))
        assert reply.status in (404, 400)
        assert len(reply.text) < 700


def test_reading_a_request_stops_nobody_else(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All threads that read requests are busy, and `/health` and a running stream go on."""
    busy, release = threading.Semaphore(0), threading.Event()
    real = server.service.prompts.prepared

    def slow(request: Any) -> Any:
        if request.prompt == "slow":
            busy.release()
            release.wait(120)
        return real(request)

    monkeypatch.setattr(server.service.prompts, "prepared", slow)
    replies: list[int] = []

    def client() -> None:
        replies.append(
            ask(server.port, "/v1/completions", {"prompt": "slow", "max_tokens": 1}).status
        )

    threads = [threading.Thread(target=client) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert busy.acquire(timeout=60)
    assert ask(server.port, "/health", None, "GET").status == 200
    assert ask(server.port, "/metrics", None, "GET").status == 200
    assert not replies
    release.set()
    for thread in threads:
        thread.join()
    assert replies == [200, 200]
    until(lambda: server.service.batcher.running == 0)
