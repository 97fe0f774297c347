"""Checks every request before the application sees it: its key, its size, and its JSON."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.datastructures import Headers

from .failures import GONE, Rejected
from .keys import Keys
from .options import ServeLimits
from .strict_json import parse

__all__ = ["OPEN_PATHS", "OWNER", "READS_JSON", "Door"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Work = Callable[..., Awaitable[Any]]
"""Calls a function with arguments in another thread."""

OPEN_PATHS = frozenset({"/health"})
"""Served without a key, because probes have none."""
OWNER = "edgewright.owner"
"""Entry of the scope: the number of the key that the client has; 0 without keys."""
READS_JSON = frozenset({"/v1/completions", "/v1/chat/completions"})


class Door:
    """ASGI middleware that refuses requests, and hands on the complete body of the others.

    Args:
        app: the application.
        limits: the size of a body.
        keys: who may use the server.
        work: reads JSON in another thread, so that it delays no other request.
    """

    def __init__(
        self,
        app: Callable[[Scope, Receive, Send], Awaitable[None]],
        limits: ServeLimits,
        keys: Keys,
        work: Work,
    ) -> None:
        self._app = app
        self._limits = limits
        self._keys = keys
        self._work = work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            headers = Headers(scope=scope)
            scope = {**scope, OWNER: self._owner(scope["path"], headers)}
            if scope["method"] == "POST" and scope["path"] in READS_JSON:
                receive = await self._checked_body(headers, receive)
        except Rejected as error:
            await error.response(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _owner(self, path: str, headers: Headers) -> int:
        owner = self._keys.owner(headers.get("authorization", "").encode("latin-1"))
        if owner is None and path not in OPEN_PATHS:
            raise Rejected(
                401,
                "this server needs an API key: send the header `Authorization: Bearer KEY`",
                {"WWW-Authenticate": "Bearer"},
            )
        return owner or 0

    async def _checked_body(self, headers: Headers, receive: Receive) -> Receive:
        """A `receive` that starts with the whole body, which is JSON.

        Raises:
            Rejected: the body is too large, or not JSON.
        """
        if headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
            raise Rejected(400, "the header Content-Type must be application/json")
        body = await self._body(headers.get("content-length", ""), receive)
        try:
            await self._work(parse, body)
        except ValueError as error:
            raise Rejected(400, f"the body cannot be read as JSON: {error}") from error
        whole: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return whole.pop() if whole else await receive()

        return replay

    async def _body(self, length: str, receive: Receive) -> bytes:
        most = self._limits.max_body_bytes
        refusal = Rejected(413, f"the body is larger than {most} bytes")
        if length.isdecimal() and int(length[:20]) > most:
            raise refusal
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Rejected(GONE, "the client has left")
            body += message.get("body", b"")
            if len(body) > most:
                raise refusal
            if not message.get("more_body", False):
                return bytes(body)
