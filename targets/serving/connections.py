"""Open connections: their number, and the time that a client may take to send and to read.

uvicorn has a limit on connections (`limit_concurrency`), but it applies only once a request has
arrived, so half-sent requests stay open for ever and fill it for everybody. It has no deadline for
a request, and none for a client that does not read its answer.
"""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from .failures import raw_failure
from .options import ServeLimits

__all__ = ["Connection", "Connections"]

SEND_BUFFER = 2**16
"""Bytes that the kernel holds for a client that does not read; uvicorn holds as many again."""
READ_SIZE = 2**14
"""Bytes that are read from a connection before it is the turn of the next one."""
READ_SECONDS = 0.25
"""CPU time to take apart one request. An honest one needs milliseconds; 200,000 chunks of one byte
need seconds."""
SWEEP_SECONDS = 1
UNFINISHED = (h11.IDLE, h11.SEND_BODY)
"""States of a client that has sent no request, or a part of one."""


class Connections:
    """All connections of a server, and their limits."""

    def __init__(self, limits: ServeLimits) -> None:
        self._limits = limits
        self._open: set[Connection] = set()

    def protocol(self, **arguments: Any) -> Connection:
        """What uvicorn calls for a new connection."""
        return Connection(self, **arguments)

    def __len__(self) -> int:
        return len(self._open)

    def add(self, new: Connection) -> None:
        """Take in a connection, in place of another one if there are too many."""
        self._open.add(new)
        if len(self._open) <= self._limits.max_connections:
            return
        unfinished = [one for one in self._open if one is not new and one.unfinished]
        if unfinished:
            oldest = min(unfinished, key=lambda one: one.since)
            oldest.refuse(408, "another client needs the connection: send the request faster")
        else:
            new.refuse(503, f"more than {self._limits.max_connections} connections are open")

    def discard(self, old: Connection) -> None:
        """Forget a connection that is closed."""
        self._open.discard(old)

    def abort(self) -> None:
        """Close all connections at once."""
        for one in list(self._open):
            one.transport.abort()

    async def keep_limits(self) -> None:
        """Close the connections whose clients have exceeded their time, until it is cancelled."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            self._sweep(asyncio.get_running_loop().time())

    def _sweep(self, now: float) -> None:
        for one in list(self._open):
            if one.unfinished and now - one.since > self._limits.request_seconds:
                one.refuse(408, f"no request within {self._limits.request_seconds:g} seconds")
            elif one.seconds_behind(now) > self._limits.stall_seconds:
                one.transport.abort()


class Connection(H11Protocol):
    """A connection that knows how long its client has been sending, or has not been reading."""

    def __init__(self, owner: Connections, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._owner = owner
        self.since = 0.0
        """When the client began to send, or could have begun."""
        self._behind_since: float | None = None
        self._reading_seconds = 0.0

    def connection_made(self, transport: Any) -> None:
        """A client has connected."""
        super().connection_made(transport)
        self.since = self.loop.time()
        transport.max_size = READ_SIZE
        connected: socket.socket = transport.get_extra_info("socket")
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        # asyncio sets it only for sockets that name their protocol, which accepted ones need not.
        # Without it the first token waits 40 ms for the acknowledgement of the headers.
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._owner.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed."""
        self._owner.discard(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """A part of a request has arrived."""
        began = time.thread_time()
        super().data_received(data)
        self._reading_seconds += time.thread_time() - began
        if self._reading_seconds > READ_SECONDS and self.unfinished:
            self.refuse(413, "the request is in too many small parts")

    def on_response_complete(self) -> None:
        """The next request may begin."""
        self.since = self.loop.time()
        self._reading_seconds = 0.0
        super().on_response_complete()

    @property
    def unfinished(self) -> bool:
        """Whether the client has not sent a whole request."""
        return self.conn.their_state in UNFINISHED

    def seconds_behind(self, now: float) -> float:
        """How long there has been, at every call, a part of an answer that was not sent."""
        if not self.transport.get_write_buffer_size():
            self._behind_since = None
            return 0.0
        if self._behind_since is None:
            self._behind_since = now
        return now - self._behind_since

    def refuse(self, status: int, message: str) -> None:
        """Close the connection, and say why unless an answer has begun."""
        self._owner.discard(self)
        answering = self.cycle and self.cycle.response_started and not self.cycle.response_complete
        if not answering and not self.transport.is_closing():
            self.transport.write(raw_failure(status, message))
            self.transport.close()
        if answering or self.transport.get_write_buffer_size():  # it would wait for the client
            self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """What arrived is not HTTP."""
        self.refuse(400, msg)
