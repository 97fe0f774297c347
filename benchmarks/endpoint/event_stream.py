"""Splits a body into server-sent events (WHATWG HTML, section 9.2.6), within a limit."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .http_reply import BadReply

__all__ = ["EventStream"]

MOST_EVENT_BYTES = 1 << 20
LINE_END = re.compile(rb"\r\n|\n|\r")


class EventStream:
    """Server-sent events: the data of each, without comments and other fields."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._data: list[bytes] = []
        self._size = 0
        self._after_return = False

    def feed(self, part: bytes) -> Iterator[bytes]:
        """Take a part of the body, and yield the data of the events that are now complete.

        Raises:
            BadReply: an event is too large.
        """
        if self._after_return and part.startswith(b"\n"):
            part = part[1:]
        self._after_return = part.endswith(b"\r") if part else False
        first, *rest = LINE_END.split(part)
        self._add(first)
        for piece in rest:
            yield from self._end_line()
            self._add(piece)

    def _add(self, piece: bytes) -> None:
        self._line += piece
        self._size += len(piece)
        if self._size > MOST_EVENT_BYTES:
            raise BadReply(f"an event is larger than {MOST_EVENT_BYTES >> 10:,} KiB")

    def _end_line(self) -> Iterator[bytes]:
        line = bytes(self._line)
        self._line.clear()
        if not line:
            if self._data:
                yield b"\n".join(self._data)
            self._data = []
            self._size = 0
            return
        name, _, value = line.partition(b":")  # a comment has no name
        if name.removeprefix(b"\xef\xbb\xbf") == b"data":
            self._data.append(value.removeprefix(b" "))
        else:
            self._size -= len(line)
