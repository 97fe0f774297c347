"""A small HTTP server whose answers a test writes, byte by byte; it records when it sent what."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

CLOSE = b"close the connection"
"""A part of an answer that is not sent; to be used as this object."""
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"


@dataclass
class Asked:
    """A request, and by this process's clock when it came and when each part was sent."""

    method: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    received: float
    sent: list[float] = field(default_factory=list)

    @property
    def streams(self) -> bool:
        return bool(self.body.get("stream"))


Answer = Callable[[Asked], AsyncIterator[bytes]]
"""Yields the parts of a reply."""


def document(value: Any, status: str = "200 OK", kind: str = "application/json") -> bytes:
    """A whole reply."""
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(data)}\r\n\r\n"
    ).encode() + data


def event(value: Any, end: bytes = b"\n") -> bytes:
    """A server-sent event."""
    return b"data: " + json.dumps(value).encode() + 2 * end


def text_event(text: str, finish: str | None = None) -> bytes:
    """An event of a completion."""
    return event({"choices": [{"index": 0, "text": text, "finish_reason": finish}]})


def usage_event(prompt: int, output: int) -> bytes:
    """The last event of a stream with usage."""
    return event({"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": output}})


def chunk(data: bytes) -> bytes:
    """A chunk of a body in chunks."""
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


async def good(asked: Asked) -> AsyncIterator[bytes]:
    """An answer as a good server gives it: a token an event, then usage, all in chunks."""
    if not asked.streams:
        usage = {"prompt_tokens": prompt_length(asked), "completion_tokens": 1}
        yield document({"choices": [{"text": "a"}], "usage": usage})
        return
    count = asked.body["max_tokens"]
    yield HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    for _ in range(count):
        yield chunk(text_event("a"))
    yield chunk(text_event("", "length") + usage_event(prompt_length(asked), count))
    yield chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


def prompt_length(asked: Asked) -> int:
    """Tokens of a prompt: the ids, or two for a word and one for the beginning."""
    prompt = asked.body.get("prompt") or asked.body["messages"][0]["content"]
    if isinstance(prompt, list):
        return len(prompt)
    return 1 + sum(1 if word == "a" else 2 for word in prompt.split())


class ScriptedServer:
    """Serves `/v1/models`, and completions and chats by an answer of the test.

    Args:
        answer: to completions and chats.
        replies: by the last part of other paths, such as `models` and `tokenize`.
    """

    def __init__(self, answer: Answer = good, **replies: bytes) -> None:
        self.answer = answer
        self.replies = {"models": document({"data": [{"id": "tiny"}]}), **replies}
        self.asked: list[Asked] = []
        self.opened = 0
        self.running = 0
        self.most_running = 0
        self.port = 0
        self._started = threading.Event()
        self._end: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def streamed(self) -> list[Asked]:
        """The requests for streams."""
        return [one for one in self.asked if one.streams]

    def run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = asyncio.Event()
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0, limit=1 << 22)
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        await self._end.wait()
        server.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        try:
            while await self._request(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        received = time.perf_counter()
        first, *lines = head.strip().split("\r\n")
        method, path, _ = first.split()
        headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines)}
        data = await reader.readexactly(int(headers.get("content-length", 0)))
        asked = Asked(method, path, headers, json.loads(data or b"{}"), received)
        self.asked.append(asked)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            async for part in self._parts(asked):
                if part is CLOSE:
                    return False
                asked.sent.append(time.perf_counter())
                writer.write(part)
                await writer.drain()
        finally:
            self.running -= 1
        return True

    async def _parts(self, asked: Asked) -> AsyncIterator[bytes]:
        if asked.path in ("/v1/completions", "/v1/chat/completions"):
            async for part in self.answer(asked):
                yield part
            return
        missing = document({"error": {"message": "no such path"}}, "404 Not Found")
        yield self.replies.get(asked.path.rpartition("/")[2], missing)


@contextmanager
def serving(server: ScriptedServer) -> Iterator[ScriptedServer]:
    """Run a server in a thread of this process."""
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    assert server._started.wait(60)
    try:
        yield server
    finally:
        assert server._loop is not None
        assert server._end is not None
        server._loop.call_soon_threadsafe(server._end.set)
        thread.join(60)
