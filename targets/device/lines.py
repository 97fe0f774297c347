"""The line protocol between a host and a program on a device: one JSON object a line, both ways.

A program reads requests from its standard input. It ends when the input ends, so a program whose
SSH connection was cut never stays. If the connection dies without a word, it ends after
`SILENCE_SECONDS`: a host that is there sends `{"ping": true}` much more often.
"""

from __future__ import annotations

import json
import os
import select
import sys
import time
from contextlib import suppress
from typing import Any, cast

from ...errors import UsageError

__all__ = ["MAX_LINE_BYTES", "SILENCE_SECONDS", "Lines", "send"]

MAX_LINE_BYTES = 1 << 24
SILENCE_SECONDS = 600.0
BLOCK = 1 << 16


def send(message: dict[str, Any]) -> None:
    """Send a message to the host.

    Raises:
        BrokenPipeError: the host is gone.
    """
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


class Lines:
    """The messages of the host.

    Args:
        handle: the file descriptor to read.
    """

    def __init__(self, handle: int = 0) -> None:
        self.ended = False
        self._handle = handle
        self._rest = b""
        self._messages: list[dict[str, Any]] = []
        self._heard = time.monotonic()

    def next(self, seconds: float = SILENCE_SECONDS) -> dict[str, Any] | None:
        """The next message that is no ping; None if none came in time, or the input ended."""
        until = time.monotonic() + seconds
        while not self._messages and not self.ended and (left := until - time.monotonic()) > 0:
            self._read(left)
        return self._messages.pop(0) if self._messages else None

    def is_interrupted(self) -> bool:
        """Whether the host has asked to stop, or is gone. It does not wait."""
        self._read(0.0)
        stops = [message for message in self._messages if "stop" in message]
        self._messages = [message for message in self._messages if "stop" not in message]
        return self.ended or bool(stops)

    def _read(self, seconds: float) -> None:
        """Read what has arrived, waiting so long for it."""
        if self.ended:
            return
        if not select.select([self._handle], [], [], seconds)[0]:
            self.ended = time.monotonic() - self._heard > SILENCE_SECONDS
            return
        self._heard = time.monotonic()
        block = os.read(self._handle, BLOCK)
        self.ended = not block
        *lines, self._rest = (self._rest + block).split(b"\n")
        if len(self._rest) > MAX_LINE_BYTES:
            raise UsageError("a request is too long", f"at most {MAX_LINE_BYTES:,} bytes")
        messages = [_parsed(line) for line in lines if line.strip()]
        self._messages += [message for message in messages if "ping" not in message]


def _parsed(line: bytes) -> dict[str, Any]:
    message: Any = None
    with suppress(ValueError, RecursionError):
        message = json.loads(line)
    if type(message) is not dict:
        raise UsageError(f"a request is no JSON object: {line[:80]!r}", "send one object a line")
    return cast(dict[str, Any], message)
