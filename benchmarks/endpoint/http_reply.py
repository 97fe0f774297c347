"""Reads an HTTP/1.1 reply (RFC 9112) as it arrives, within limits. No input or output here.

The standard library's client does not tell when a part of a body arrived, and it blocks a thread
for each request. This reader gets the bytes with their time and passes both on.
"""

from __future__ import annotations

import re
from collections.abc import Callable

__all__ = ["BadReply", "HttpReply", "TakeBody"]

TakeBody = Callable[["HttpReply", bytes, float], None]
"""Gets the reply, a part of its body, and when that arrived in seconds."""
MOST_HEAD_BYTES = 64 << 10
MOST_LINE_BYTES = 1 << 10
"""Of the line before a chunk."""
STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})(?: |$)")
SIZE = re.compile(rb"[0-9a-fA-F]{1,15}")
BARE = (204, 304)
"""Statuses of replies without a body."""


class BadReply(Exception):
    """A reply that is no HTTP, is too large, or ended early; the text says which."""


class HttpReply:
    """One reply.

    Args:
        take: gets the parts of the body.
        most: the most bytes of the body.

    Attributes:
        status: the status; 0 until the head is there.
        headers: by lower-case name; the last of several with one name.
        started: whether anything arrived.
        done: whether the reply is complete.
        reusable: whether the connection can serve another request after it.
    """

    def __init__(self, take: TakeBody, most: int) -> None:
        self._take = take
        self._left = most
        self._most = most
        self._buffer = bytearray()
        self._state = self._head
        self._length: int | None = None
        self.status = 0
        self.headers: dict[str, str] = {}
        self.started = False
        self.done = False
        self.reusable = False

    def feed(self, data: bytes, now: float) -> None:
        """Take bytes that arrived.

        Raises:
            BadReply: they are no reply, or too many.
        """
        self.started = True
        self._buffer += data
        while self._state(now) and not self.done:
            pass
        if self.done and self._buffer:  # nothing was asked for: nothing may follow
            self.reusable = False

    def end(self) -> None:
        """The server closed the connection.

        Raises:
            BadReply: the reply is not complete.
        """
        if self._state == self._until_end:
            self.done = True
        if not self.done:
            raise BadReply("the connection was closed before the reply was complete")

    def _cut(self, separator: bytes, most: int, what: str) -> bytes | None:
        """Take what stands before a separator; None if it is not there yet."""
        at = self._buffer.find(separator, 0, most + len(separator))
        if at < 0:
            if len(self._buffer) > most:
                raise BadReply(f"{what} is longer than {most >> 10} KiB")
            return None
        found = bytes(self._buffer[:at])
        del self._buffer[: at + len(separator)]
        return found

    def _head(self, _now: float) -> bool:
        head = self._cut(b"\r\n\r\n", MOST_HEAD_BYTES, "the head of the reply")
        if head is None:
            if len(self._buffer) >= 5 and not self._buffer.startswith(b"HTTP/"):
                raise BadReply("it does not speak HTTP")
            return False
        first, *lines = head.split(b"\r\n")
        found = STATUS.match(first)
        if not found:
            raise BadReply("it does not speak HTTP/1.1")
        if found[1][:1] == b"1":  # for example 100 Continue; the reply follows
            return True
        self.status = int(found[1])
        for line in lines:
            name, _, value = line.partition(b":")
            self.headers[name.decode("latin-1").lower()] = value.strip().decode("latin-1")
        old = first.startswith(b"HTTP/1.0")
        self.reusable = not old and "close" not in self.headers.get("connection", "").lower()
        self._begin_body()
        return True

    def _begin_body(self) -> None:
        length = self.headers.get("content-length", "")
        if self.status in BARE:
            self.done = True
        elif "chunked" in self.headers.get("transfer-encoding", "").lower():
            self._state = self._chunk_size
        elif length.isascii() and length.isdigit() and len(length) < 16:
            self._length = int(length)
            self._state = self._of_length
            self.done = not self._length
        else:
            self.reusable = False
            self._state = self._until_end

    def _give(self, count: int, now: float) -> None:
        """Pass on bytes of the body."""
        self._left -= count
        if self._left < 0:
            raise BadReply(f"the reply is larger than {self._most >> 10:,} KiB")
        part = bytes(self._buffer[:count])
        del self._buffer[:count]
        self._take(self, part, now)

    def _until_end(self, now: float) -> bool:
        if self._buffer:
            self._give(len(self._buffer), now)
        return False

    def _of_length(self, now: float) -> bool:
        """Pass on the rest of a body, or of a chunk, whose length is known."""
        if not self._buffer or self._length is None:
            return False
        count = min(self._length, len(self._buffer))
        self._length -= count
        self._give(count, now)
        if self._length:
            return False
        self.done = self._state == self._of_length
        return True

    def _chunk_size(self, _: float) -> bool:
        line = self._cut(b"\r\n", MOST_LINE_BYTES, "a line before a chunk")
        if line is None:
            return False
        size = line.partition(b";")[0].strip()
        if not SIZE.fullmatch(size):
            raise BadReply("a chunk has no valid size")
        self._length = int(size, 16)
        self._state = self._chunk if self._length else self._trailer
        return True

    def _chunk(self, now: float) -> bool:
        if not self._of_length(now):
            return False
        self._state = self._chunk_end
        return True

    def _chunk_end(self, _: float) -> bool:
        line = self._cut(b"\r\n", MOST_LINE_BYTES, "the end of a chunk")
        if line:
            raise BadReply("a chunk is longer than its size")
        self._state = self._chunk_size if line is not None else self._chunk_end
        return line is not None

    def _trailer(self, _: float) -> bool:
        line = self._cut(b"\r\n", MOST_LINE_BYTES, "a line after the body")
        self.done = line == b""
        return bool(line)
