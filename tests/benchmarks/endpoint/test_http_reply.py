"""The reader of HTTP replies: the same result however the bytes are split, and limits."""

from __future__ import annotations

import pytest

from edgewright.benchmarks.endpoint.http_reply import BadReply, HttpReply

CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5;note=1\r\nhello\r\n1\r\n \r\nA\r\nworld\r\n\r\n.\r\n0\r\nTrailer: 1\r\n\r\n"
)
WITH_LENGTH = b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\nX-A: b\r\n\r\nhello"
TO_THE_END = b"HTTP/1.0 200 OK\r\nContent-Type: a\r\n\r\nhello"
CONTINUED = b"HTTP/1.1 100 Continue\r\n\r\n" + WITH_LENGTH
EMPTY = b"HTTP/1.1 204 No Content\r\n\r\n"
NOTHING = b"HTTP/1.1 200\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
REPLIES = {
    "chunked": (CHUNKED, 200, b"hello world\r\n\r\n.", True),
    "length": (WITH_LENGTH, 404, b"hello", True),
    "end": (TO_THE_END, 200, b"hello", False),
    "continued": (CONTINUED, 404, b"hello", True),
    "empty": (EMPTY, 204, b"", True),
    "nothing": (NOTHING, 200, b"", False),
}


class Taken:
    """A reply, its body, and when its parts arrived."""

    def __init__(self, most: int = 1000) -> None:
        self.body = b""
        self.times: list[float] = []
        self.reply = HttpReply(self.take, most)

    def take(self, reply: HttpReply, part: bytes, now: float) -> None:
        assert reply is self.reply
        self.body += part
        self.times.append(now)


@pytest.mark.parametrize("name", REPLIES)
@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
def test_a_reply_is_the_same_however_it_is_split(name: str, step: int) -> None:
    data, status, body, reusable = REPLIES[name]
    taken = Taken()
    for at in range(0, len(data), step):
        assert not taken.reply.done
        taken.reply.feed(data[at : at + step], float(at))
    if name == "end":
        assert not taken.reply.done
        taken.reply.end()
    assert taken.reply.done
    assert (taken.reply.status, taken.body, taken.reply.reusable) == (status, body, reusable)


def test_each_part_has_the_time_of_its_bytes() -> None:
    taken = Taken()
    taken.reply.feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 1.0)
    taken.reply.feed(b"1\r\na\r\n", 2.0)
    taken.reply.feed(b"1\r\nb", 3.0)
    taken.reply.feed(b"\r\n2\r\nc", 4.0)
    taken.reply.feed(b"d\r\n0\r\n\r\n", 5.0)
    assert taken.times == [2.0, 3.0, 4.0, 5.0]
    assert taken.body == b"abcd"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"SSH-2.0-OpenSSH", "does not speak HTTP"),
        (b"HTTP/2 200\r\n\r\n", "does not speak HTTP/1.1"),
        (b"HTTP/1.1 20\r\n\r\n", "does not speak HTTP/1.1"),
        (b"HTTP/1.1 200 OK\r\nA: " + b"a" * 70_000, "head of the reply is longer than 64 KiB"),
        (CHUNKED.replace(b"5;note", b"x;note"), "no valid size"),
        (CHUNKED.replace(b"5;note", b"-5;note"), "no valid size"),
        (CHUNKED.replace(b"5;note=1", b"f" * 20), "no valid size"),
        (CHUNKED.replace(b"5;note=1", b"5;" + b"a" * 2000), "longer than 1 KiB"),
        (CHUNKED.replace(b"hello", b"hello!"), "a chunk is longer than its size"),
        (WITH_LENGTH.replace(b": 5", b": 500000") + b"a" * 2000, "larger than 0 KiB"),
    ],
)
def test_what_is_no_reply_is_refused(data: bytes, said: str) -> None:
    taken = Taken()
    with pytest.raises(BadReply, match=said):
        taken.reply.feed(data, 0.0)


@pytest.mark.parametrize("name", ["chunked", "length", "continued"])
def test_a_reply_that_ends_early_is_refused_wherever_it_ends(name: str) -> None:
    data = REPLIES[name][0]
    for count in range(1, len(data)):
        taken = Taken()
        taken.reply.feed(data[:count], 0.0)
        with pytest.raises(BadReply, match="closed before the reply was complete"):
            taken.reply.end()


def test_bytes_behind_a_reply_end_the_connection() -> None:
    taken = Taken()
    taken.reply.feed(WITH_LENGTH + b"HTTP/1.1 200 OK", 0.0)
    assert taken.reply.done
    assert not taken.reply.reusable
