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
LONGEST_PARAM = 100
TYPES = {401: "authentication_error", 429: "rate_limit_error"}
CODES = {
    400: "invalid_request",
    401: "invalid_api_key",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "request_too_large",
    429: "rate_limit_exceeded",
    503: "unavailable",
}
"""What `code` says where nothing more exact is known."""


class Rejected(Exception):
    """A request that cannot be served, with the HTTP status to send.

    Args:
        status: the HTTP status.
        message: what is wrong.
        headers: more headers of the response.
        param: the field of the request that is wrong.
        code: what is wrong, as a word for programs; None: the one of the status.
    """

    def __init__(
        self,
        status: int,
        message: str,
        headers: Mapping[str, str] | None = None,
        *,
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers
        self.param = param
        self.code = code

    @property
    def response(self) -> JSONResponse:
        """The HTTP response."""
        body = failure(self.status, str(self), self.param, self.code)
        return JSONResponse(body, self.status, self.headers)


def failure(
    status: int, message: str, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """The body of an answer that says why a request is not served; see `Rejected`."""
    kind = TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {
        "error": {
            "message": _shown(message, LONGEST),
            "type": kind,
            "param": None if param is None else _shown(param, LONGEST_PARAM),
            "code": code or CODES.get(status, "server_error"),
        }
    }


def _shown(text: str, most: int) -> str:
    # Lone surrogates in a quotation cannot be encoded.
    clean = text.encode("utf-8", "replace").decode()
    return clean if len(clean) <= most else clean[:most] + "..."


def failure_response(
    status: int, message: str, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """`failure` as a response."""
    return Rejected(status, message, headers).response


def raw_failure(status: int, message: str) -> bytes:
    """`failure` as the bytes of an HTTP/1.1 response after which the connection is closed."""
    body = json.dumps(failure(status, message)).encode()
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
