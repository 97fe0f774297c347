"""A small HTTP client on asyncio streams, which can also do what a client must not do."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

__all__ = ["Address", "Reply", "connected", "head", "posted", "read_lines", "read_reply"]

PATIENCE = 300.0
"""Seconds after which a client that waits for the server counts that as an error."""


@dataclass(frozen=True)
class Address:
    """A server on this machine, and a key that it accepts."""

    port: int
    key: str


@dataclass(frozen=True)
class Reply:
    """What a server answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def refusal(self) -> int | None:
        """The status, or None if the body is not OpenAI's error object."""
        try:
            error = json.loads(self.body)["error"]
            texts = [error["message"], error["type"], error["code"]]
        except (ValueError, KeyError, TypeError):
            return None
        return self.status if all(isinstance(text, str) for text in texts) else None


@dataclass
class Wire:
    """Both directions of a connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        """Send all, at the pace of the server."""
        self.writer.write(data)
        async with asyncio.timeout(PATIENCE):
            await self.writer.drain()

    def cut(self) -> None:
        """Break the connection without a word."""
        self.writer.transport.abort()


@asynccontextmanager
async def connected(address: Address, receive_buffer: int = 0) -> AsyncGenerator[Wire]:
    """A new connection.

    Args:
        address: where to connect.
        receive_buffer: bytes that the kernel may hold for a client that does not read.
    """
    raw = socket.socket()
    if receive_buffer:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    raw.setblocking(False)
    async with asyncio.timeout(PATIENCE):
        await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", address.port))
        reader, writer = await asyncio.open_connection(sock=raw)
    try:
        yield Wire(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def head(path: str, key: str, length: int | None, kind: str = "application/json") -> bytes:
    """The head of a POST request; without a length, the end of the headers is missing too."""
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: localhost",
        f"Authorization: Bearer {key}",
        f"Content-Type: {kind}",
    ]
    if length is not None:
        lines += [f"Content-Length: {length}", ""]
    return ("\r\n".join(lines) + "\r\n").encode()


def posted(path: str, key: str, body: Any) -> bytes:
    """A whole POST request; `body` is made JSON unless it is bytes."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return head(path, key, len(data)) + data


async def read_head(wire: Wire) -> tuple[int, dict[str, str]]:
    """Status and headers of a reply.

    Raises:
        ConnectionError: the connection was closed.
    """
    line = await wire.reader.readline()
    if not line:
        raise ConnectionResetError("closed without a reply")
    headers: dict[str, str] = {}
    while (text := (await wire.reader.readline()).decode("latin-1").strip()) != "":
        name, _, value = text.partition(":")
        headers[name.lower()] = value.strip()
    return int(line.split()[1]), headers


async def read_reply(wire: Wire) -> Reply:
    """A whole reply."""
    async with asyncio.timeout(PATIENCE):
        status, headers = await read_head(wire)
        if "content-length" in headers:
            body = await wire.reader.readexactly(int(headers["content-length"]))
        else:
            body = b"".join([chunk async for chunk in _chunks(wire)])
    return Reply(status, headers, body)


async def read_lines(wire: Wire) -> AsyncGenerator[str]:
    """The lines of a chunked body that are not empty."""
    rest = b""
    async for chunk in _chunks(wire):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line:
                yield line.decode()


async def _chunks(wire: Wire) -> AsyncGenerator[bytes]:
    while True:
        async with asyncio.timeout(PATIENCE):
            line = await wire.reader.readline()
            if not line:
                raise ConnectionResetError("closed in the middle of a reply")
            size = int(line, 16)
            data = (await wire.reader.readexactly(size + 2))[:-2]
        if not size:
            return
        yield data
