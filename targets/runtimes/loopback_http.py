"""HTTP requests to a server on the device's loopback, each through a channel of the connection.

No port is opened on this machine, so nobody else can use the way to the device.
"""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import socket
from typing import Any, cast

from ...errors import EdgewrightError
from ..remote import Device

__all__ = ["LoopbackServer"]

MAX_ANSWER_BYTES = 1 << 26
BLOCK = 1 << 16


class LoopbackServer:
    """An HTTP server on the device that speaks JSON.

    Args:
        device: where it is.
        port: of its loopback.
        key: sent as a bearer token.
        name: in messages.
    """

    def __init__(self, device: Device, port: int, key: str, name: str) -> None:
        self._device = device
        self._port = port
        self._key = key
        self._name = name

    async def ask(self, path: str, body: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Post a JSON object and return the answer's.

        Raises:
            EdgewrightError: the server refused, sent something else, or took too long.
        """
        content = json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\nConnection: close\r\n"
            f"Authorization: Bearer {self._key}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(content)}\r\n\r\n"
        )
        try:
            async with asyncio.timeout(seconds):
                raw = await self._exchange(head.encode() + content)
        except TimeoutError as error:
            raise self._failed(f"did not answer within {seconds:.0f} s") from error
        try:
            status, text = _parsed(raw)
            answer = json.loads(text)
        except (http.client.HTTPException, ValueError) as error:
            raise self._failed(f"sent no JSON: {raw[:200]!r}") from error
        if status != http.HTTPStatus.OK or not isinstance(answer, dict):
            raise self._failed(f"answered {status}: {text[:300].decode(errors='replace')}")
        return cast("dict[str, Any]", answer)

    async def _exchange(self, request: bytes) -> bytes:
        """Send a request and read until the server closes the channel."""
        reader, writer = await self._device.connect(self._port)
        try:
            writer.write(request)
            answer = b""
            while block := await reader.read(BLOCK):
                answer += block
                if len(answer) > MAX_ANSWER_BYTES:
                    raise self._failed(f"sent more than {MAX_ANSWER_BYTES:,} bytes")
            if self._device.is_lost:
                raise ConnectionResetError("the connection was closed before the answer came")
            return answer
        finally:
            writer.close()

    def _failed(self, what: str) -> EdgewrightError:
        return EdgewrightError(
            f"{self._device.address}: {self._name} {what}", "try the same request on the device"
        )


class _Answer:
    """Bytes in the form that `http.client` reads."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def makefile(self, mode: str) -> io.BytesIO:
        del mode
        return io.BytesIO(self._raw)


def _parsed(raw: bytes) -> tuple[int, bytes]:
    """Status and body of an answer.

    Raises:
        HTTPException: it is none, or is cut.
    """
    answer = http.client.HTTPResponse(cast("socket.socket", _Answer(raw)))
    answer.begin()
    return answer.status, answer.read()
