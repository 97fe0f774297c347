"""Connections: half-sent requests, garbage, too many of them, and clients that do not read."""

from __future__ import annotations

import json
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from edgewright.errors import UsageError
from edgewright.export.onnx.runtime import OnnxDecoder
from edgewright.targets.serving.connections import Connection, Connections
from edgewright.targets.serving.options import ServeLimits
from edgewright.targets.serving.run import listening, reserve_files
from edgewright.targets.serving.service import Service

from server_helpers import Running, ask, running, until  # isort: skip

pytest_plugins = ["serving_fixtures"]
HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
PARTS = {
    "nothing": b"",
    "half a line": b"POST /v1/compl",
    "half the headers": HEAD,
    "half the body": HEAD + b"Content-Length: 99\r\n\r\n" + b'{"prompt": ',
    "half a chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{",
    "a body that was refused": HEAD + b"Content-Length: 999999999\r\n\r\n" + b"{",
}
Serve = Callable[..., Running]


@pytest.fixture
def serve(served: Path) -> Iterator[Serve]:
    """Starts a server with these limits."""
    with ExitStack() as stack:
        yield lambda **limits: stack.enter_context(
            running(Service(served, 1, max_batch=2, limits=ServeLimits(**limits)))
        )


def connected(port: int, data: bytes = b"") -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), timeout=120)
    client.sendall(data)
    return client


def rest(client: socket.socket) -> bytes:
    """All that the server still sends; it ends when the server closes the connection."""
    found = b""
    try:
        while data := client.recv(65536):
            found += data
    except ConnectionResetError:
        pass
    client.close()
    return found


def error_of(reply: bytes) -> dict[str, Any]:
    head, _, body = reply.rpartition(b"\r\n\r\n")
    assert b"application/json" in head
    return json.loads(body)["error"]


def test_what_is_written_is_sent_at_once(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the kernel holds the first token back until the client has acknowledged the headers."""
    opened: list[Connection] = []
    monkeypatch.setattr(Connections, "add", lambda _, new: opened.append(new))
    client = connected(serve().port)
    until(lambda: bool(opened))
    own = opened[0].transport.get_extra_info("socket")
    assert own.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    client.close()


@pytest.mark.parametrize("name", PARTS)
def test_a_request_that_does_not_end_is_closed(serve: Serve, name: str) -> None:
    server = serve(request_seconds=1)
    reply = rest(connected(server.port, PARTS[name]))
    assert reply.startswith(b"HTTP/1.1 413" if "refused" in name else b"HTTP/1.1 408")
    assert error_of(reply)["code"] in ("request_timeout", "request_too_large")
    assert ask(server.port, "/health", None, "GET").status == 200


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/x\r\n\r\n",
        b"\r\n\r\nnonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 100_000,
        HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    ],
)
def test_garbage_is_a_400_in_json(port: int, garbage: bytes) -> None:
    reply = rest(connected(port, garbage))
    assert reply.startswith(b"HTTP/1.1 400"), reply
    assert error_of(reply)["code"] == "invalid_request"


def test_a_request_in_tiny_parts_is_closed_although_it_goes_on(serve: Serve) -> None:
    """Each part is a few bytes for the client, and some microseconds for everybody here."""
    server = serve(max_body_bytes=10**9, request_seconds=600)
    client = connected(server.port, HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        for _ in range(3000):
            client.sendall(b"1\r\na\r\n" * 5000)
    client.close()
    assert ask(server.port, "/health", None, "GET").status == 200


def test_half_sent_requests_cannot_take_the_place_of_whole_ones(serve: Serve) -> None:
    server = serve(max_connections=4, request_seconds=600)
    halves = [connected(server.port, PARTS["half the body"]) for _ in range(4)]
    for _ in range(3):
        assert ask(server.port, "/v1/completions", {"prompt": "a", "max_tokens": 2}).status == 200
    halves += [connected(server.port, PARTS["half the headers"]) for _ in range(40)]
    assert ask(server.port, "/health", None, "GET").status == 200
    assert error_of(rest(halves[0]))["code"] == "request_timeout"
    for client in halves:
        client.close()


def test_a_connection_beyond_the_limit_is_a_503_if_all_others_work(
    serve: Serve, held: threading.Event
) -> None:
    server = serve(max_connections=1)
    first: list[int] = []
    body = {"prompt": [5, 6], "max_tokens": 2}
    thread = threading.Thread(
        target=lambda: first.append(ask(server.port, "/v1/completions", body).status)
    )
    thread.start()
    until(lambda: server.service.batcher.running == 1)
    assert (
        error_of(rest(connected(server.port, b"GET /health HTTP/1.1\r\n\r\n")))["code"]
        == "unavailable"
    )
    held.set()
    thread.join()
    assert first == [200]


def test_a_client_that_does_not_read_is_closed(serve: Serve) -> None:
    """It asks for 40 MB of descriptions in one connection and reads none of them."""
    server = serve(stall_seconds=1)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", server.port))
        client.settimeout(120)
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            while True:
                client.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n" * 100)
    assert ask(server.port, "/health", None, "GET").status == 200


@pytest.mark.parametrize("stream", [False, True])
def test_whoever_leaves_frees_the_place_in_the_queue_and_in_the_batch(
    serve: Serve, held: threading.Event, stream: bool
) -> None:
    batcher = (server := serve(max_waiting=3)).service.batcher
    body = json.dumps({"prompt": [5] * 200, "max_tokens": 50, "stream": stream}).encode()
    request = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
    clients = [connected(server.port, request)]
    until(lambda: batcher.running == 1)  # in the prefill
    for waiting in (1, 2, 3):
        clients.append(connected(server.port, request))
        until(lambda n=waiting: batcher.waiting == n)
    full = ask(server.port, "/v1/completions", {"prompt": "a"})
    assert (full.status, full.headers["retry-after"]) == (429, "1")
    assert full.error["type"] == "rate_limit_error"
    for client in clients[1:]:
        client.close()
    until(lambda: batcher.waiting == 0)
    assert batcher.running == 1
    clients[0].close()
    until(lambda: 'outcome="cancelled"} 4.0' in ask(server.port, "/metrics", None, "GET").text)
    held.set()
    until(lambda: batcher.running == 0)
    assert batcher.tokens <= 2


def test_a_server_that_stops_finishes_its_answers(serve: Serve, held: threading.Event) -> None:
    server = serve()
    body = json.dumps(
        {"prompt": [5, 6], "max_tokens": 9, "stream": True, "temperature": 1}
    ).encode()
    client = connected(server.port, HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    until(lambda: server.service.batcher.running == 1)
    server.server.should_exit = True
    held.set()
    assert b"data: [DONE]" in rest(client)


@pytest.mark.parametrize("stream", [False, True])
def test_answers_that_take_too_long_end_with_an_error(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    real = OnnxDecoder.step

    def slow(*arguments: Any) -> Any:
        time.sleep(0.1)
        return real(*arguments)

    monkeypatch.setattr(OnnxDecoder, "step", slow)
    server = serve(grace_seconds=1)
    more = {"max_tokens": 250, "stream": stream, "temperature": 2}
    body = json.dumps({"prompt": [5, 6], **more}).encode()
    client = connected(server.port, HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    until(lambda: server.service.batcher.tokens > 0)
    server.server.should_exit = True
    reply = rest(client)
    if stream:
        assert (
            json.loads(reply.split(b"data: ")[-1].split(b"\n")[0])["error"]["code"] == "unavailable"
        )
    else:
        assert (reply[:12], error_of(reply)["type"]) == (b"HTTP/1.1 503", "server_error")


def test_the_system_must_allow_the_files(monkeypatch: pytest.MonkeyPatch) -> None:
    changed: list[Any] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (100, 1000))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: changed.append(limits))
    reserve_files(100)
    assert not changed
    reserve_files(900)
    assert changed == [(900, 1000)]
    with pytest.raises(UsageError, match="1000"):
        reserve_files(1001)


def test_an_address_in_use_is_one_clear_message() -> None:
    with listening("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(UsageError, match=str(port)) as caught:
            listening("127.0.0.1", port)
    assert "--port" in caught.value.hint
