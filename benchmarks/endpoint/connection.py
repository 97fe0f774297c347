"""Connections to a server: streaming requests over HTTP/1.1, timed where the bytes arrive."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult

from .event_stream import EventStream
from .http_reply import BadReply, HttpReply, TakeBody
from .timing import RequestTiming, failure_text

__all__ = ["MOST_BODY_BYTES", "Body", "Client", "Clock", "Wire", "reason", "request_bytes"]

Clock = Callable[[], float]
CONNECT_SECONDS = 30
MOST_BODY_BYTES = 1 << 20
"""Of a reply that is no stream."""
MOST_EVENT_BYTES = 2 << 10
"""Of a stream, for each token that was asked for, beside `MOST_BODY_BYTES`."""
OK = 200


class _Lost(BadReply):
    """The connection was closed before anything of the reply arrived."""


class Wire(asyncio.Protocol):
    """One connection: passes what arrives to the reply that is awaited, with the time.

    Args:
        clock: gives seconds.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._reply: HttpReply | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the connection that is now open."""
        self.transport = transport if isinstance(transport, asyncio.Transport) else None

    async def ask(self, request: bytes, reply: HttpReply) -> None:
        """Send a request, and wait until its reply is complete.

        Raises:
            BadReply: there is no valid reply.
        """
        if self.transport is None or self.transport.is_closing():
            raise _Lost("the connection is closed")
        self._reply = reply
        self._waiter = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        try:
            await self._waiter
        finally:
            self._reply = None
            if not (reply.done and reply.reusable):
                self.close()

    def data_received(self, data: bytes) -> None:
        """Pass on what arrived."""
        now = self._clock()
        reply = self._reply
        if reply is None:  # nothing was asked for
            self.close()
            return
        try:
            reply.feed(data, now)
        except BadReply as error:
            self._end(error)
            return
        if reply.done:
            self._end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the reply that is awaited; a body without a length is then complete."""
        reply = self._reply
        if reply is None:
            return
        if not reply.started:
            self._end(_Lost("the server closed the connection without an answer"))
            return
        if exc:
            self._end(BadReply(f"the connection was lost: {reason(exc)}"))
            return
        try:
            reply.end()
        except BadReply as error:
            self._end(error)
        else:
            self._end(None)

    def _end(self, error: BadReply | None) -> None:
        if self._waiter is None or self._waiter.done():
            return
        if error:
            self._waiter.set_exception(error)
        else:
            self._waiter.set_result(None)

    @property
    def usable(self) -> bool:
        """Whether another request can be sent."""
        return self.transport is not None and not self.transport.is_closing()

    def close(self) -> None:
        """Close the connection at once."""
        if self.transport is not None:
            self.transport.abort()


@dataclass
class Body:
    """A reply that is no stream."""

    status: int
    data: bytes
    headers: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def value(self) -> Any:
        """The JSON in it; None if there is none."""
        try:
            return json.loads(self.data)
        except (ValueError, RecursionError):
            return None

    @property
    def failure(self) -> str:
        """What the server said, for a message."""
        value = self.value
        said = self.data.decode("utf-8", "replace") if value is None else value
        return f"HTTP {self.status}: {failure_text(said)}"


@dataclass
class Client:
    """Sends requests to one server and keeps its connections open.

    Attributes:
        base: the address: scheme, host and port.
        headers: of every request, among them the API key.
        clock: gives seconds.
        resent: requests that were sent again, as the server closed an idle connection.
    """

    base: SplitResult
    headers: Mapping[str, str] = field(default_factory=dict)
    clock: Clock = time.perf_counter
    resent: int = 0
    _idle: list[Wire] = field(default_factory=list)

    async def stream(self, path: str, body: Mapping[str, Any], output_tokens: int) -> RequestTiming:
        """Send a request and time the events of its answer.

        As in vLLM's `bench serve`, the clock starts before a connection is opened, and connections
        are kept for later requests.

        Returns:
            The request, with `error` if it failed.
        """
        request = self._request("POST", path, body)
        timing = RequestTiming(sent=self.clock())
        events = EventStream()
        other = bytearray()

        def take(reply: HttpReply, part: bytes, now: float) -> None:
            timing.status = reply.status
            if not _is_stream(reply):
                other.extend(part)
                return
            for event in events.feed(part):
                timing.take(event, now)

        most = MOST_BODY_BYTES + MOST_EVENT_BYTES * output_tokens
        try:
            reply = await self._ask(request, take, most)
            timing.status = reply.status
            _require_stream(reply, bytes(other))
            timing.finished()
        except (BadReply, OSError) as error:
            timing.error = reason(error)
        return timing

    async def fetch(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        most: int = MOST_BODY_BYTES,
    ) -> Body:
        """Send a request whose reply is one document.

        Args:
            method: of HTTP.
            path: of the request.
            body: sent as JSON.
            most: the most bytes of the reply.

        Raises:
            BadReply: there is no valid reply.
            OSError: the server cannot be reached.
        """
        data = bytearray()

        def take(_: HttpReply, part: bytes, __: float) -> None:
            data.extend(part)

        reply = await self._ask(self._request(method, path, body), take, most)
        return Body(reply.status, bytes(data), reply.headers)

    async def _ask(self, request: bytes, take: TakeBody, most: int) -> HttpReply:
        """Send a request over an idle connection, or over a new one if that was closed."""
        while self._idle:
            wire = self._idle.pop()
            if not wire.usable:
                continue
            try:
                return await self._over(wire, request, HttpReply(take, most))
            except _Lost:  # the server closed it while it was idle
                self.resent += 1
                break
        return await self._over(await self._connect(), request, HttpReply(take, most))

    async def _over(self, wire: Wire, request: bytes, reply: HttpReply) -> HttpReply:
        await wire.ask(request, reply)
        if wire.usable:
            self._idle.append(wire)
        return reply

    async def _connect(self) -> Wire:
        secure = self.base.scheme == "https"
        connecting = asyncio.get_running_loop().create_connection(
            lambda: Wire(self.clock),
            self.base.hostname or "",
            self.base.port or (443 if secure else 80),
            ssl=ssl.create_default_context() if secure else None,
        )
        try:
            _, wire = await asyncio.wait_for(connecting, CONNECT_SECONDS)
        except TimeoutError:
            raise BadReply(f"no connection within {CONNECT_SECONDS} s") from None
        return wire

    def _request(self, method: str, path: str, body: Mapping[str, Any] | None) -> bytes:
        return request_bytes(method, path, body, {"Host": self.base.netloc, **self.headers})

    def close(self) -> None:
        """Close all idle connections."""
        while self._idle:
            self._idle.pop().close()


def request_bytes(
    method: str, path: str, body: Mapping[str, Any] | None, headers: Mapping[str, str]
) -> bytes:
    """A request of HTTP/1.1 whose body is JSON.

    Args:
        method: of HTTP.
        path: of the request.
        body: the body; None: it has none.
        headers: `Host`, and what else the server needs.
    """
    data = b"" if body is None else json.dumps(body).encode()
    known = {
        "Accept": "text/event-stream, application/json",
        "Accept-Encoding": "identity",
        "Content-Type": "application/json",
        "Content-Length": str(len(data)),
    }
    lines = [f"{name}: {value}" for name, value in {**known, **headers}.items()]
    return "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""]).encode("latin-1") + data


def _is_stream(reply: HttpReply) -> bool:
    kind = reply.headers.get("content-type", "").lower()
    return reply.status == OK and kind.startswith("text/event-stream")


def _require_stream(reply: HttpReply, data: bytes) -> None:
    if _is_stream(reply):
        return
    if reply.status != OK:
        raise BadReply(Body(reply.status, data).failure)
    kind = reply.headers.get("content-type", "no content type")[:60]
    raise BadReply(f"the server does not stream: it answered with {kind}, not text/event-stream")


def reason(error: Exception) -> str:
    """Why a request failed, for a message."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
