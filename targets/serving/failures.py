"""The reasons why a request is not served, in OpenAI's format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi.responses import JSONResponse

__all__ = ["GONE", "RETRY_AFTER", "Rejected", "failure", "failure_response", "raw_failure"]

GONE = 499
"""Status for the log when the client has left; nobody receives it."""
RETRY_AFTER = {"Retry-After": "1"}
LONGEST = 500
"""Characters of a message. It may quote the request, which can be long."""
TYPES = {401: "authentication_error", 429: "rate_limit_error"}


class Rejected(Exception):
    """A request that cannot be served, with the HTTP status to send."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers


def failure(status: int, message: str) -> dict[str, Any]:
    """The body of an answer that says why a request is not served."""
    # Lone surrogates in a quotation cannot be encoded.
    text = message.encode("utf-8", "replace").decode()
    if len(text) > LONGEST:
        text = text[:LONGEST] + "..."
    kind = TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": text, "type": kind, "param": None, "code": status}}


def failure_response(
    status: int, message: str, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """`failure` as a response."""
    return JSONResponse(failure(status, message), status, headers)


def raw_failure(status: int, message: str) -> bytes:
    """`failure` as the bytes of an HTTP/1.1 response after which the connection is closed."""
    body = json.dumps(failure(status, message)).encode()
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
