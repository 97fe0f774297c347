"""HTTP requests to a server on the device's loopback, each through a channel of the connection.

No port is opened on this machine, so nobody else can use the way to the device.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, cast

from ...benchmarks.endpoint.connection import Body, request_bytes
from ...benchmarks.endpoint.http_reply import BadReply, HttpReply
from ...errors import EdgewrightError
from ..remote import Device

__all__ = ["LoopbackServer"]

MAX_ANSWER_BYTES = 1 << 26
BLOCK = 1 << 16
OK = 200


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
        headers = {
            "Host": f"127.0.0.1:{self._port}",
            "Connection": "close",
            "Authorization": f"Bearer {self._key}",
        }
        try:
            async with asyncio.timeout(seconds):
                answer = await self._exchange(request_bytes("POST", path, body, headers))
        except TimeoutError as error:
            raise self._failed(f"did not answer within {seconds:.0f} s") from error
        except BadReply as error:
            raise self._failed(f"sent no answer: {error}") from error
        if answer.status != OK:
            raise self._failed(f"answered {answer.failure}")
        if not isinstance(answer.value, dict):
            raise self._failed(f"sent no JSON: {answer.data[:200]!r}")
        return cast("dict[str, Any]", answer.value)

    async def _exchange(self, request: bytes) -> Body:
        """Send a request and read its reply.

        Raises:
            BadReply: there is no valid reply.
        """
        data = bytearray()

        def take(_: HttpReply, part: bytes, __: float) -> None:
            data.extend(part)

        reply = HttpReply(take, MAX_ANSWER_BYTES)
        reader, writer = await self._device.connect(self._port)
        try:
            writer.write(request)
            while not reply.done and (block := await reader.read(BLOCK)):
                reply.feed(block, time.monotonic())
            if not reply.done:
                if self._device.is_lost:
                    raise ConnectionResetError("the connection was closed before the answer came")
                reply.end()
        finally:
            writer.close()
        return Body(reply.status, bytes(data), reply.headers)

    def _failed(self, what: str) -> EdgewrightError:
        return EdgewrightError(
            f"{self._device.address}: {self._name} {what}", "try the same request on the device"
        )
