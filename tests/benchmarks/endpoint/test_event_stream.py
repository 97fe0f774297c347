"""Server-sent events: every spelling of lines, comments, and limits."""

from __future__ import annotations

import pytest

from edgewright.benchmarks.endpoint.event_stream import MOST_EVENT_BYTES, EventStream
from edgewright.benchmarks.endpoint.http_reply import BadReply

LINES = [
    b"\xef\xbb\xbfdata: one",
    b"",
    b": keep-alive",
    b"",
    b"event: message",
    b"id: 7",
    b"data:two",
    b"data:  three",
    b"retry",
    b"",
    b"",
    b"data",
    b"",
    b"data: [DONE]",
    b"",
]
EVENTS = [b"one", b"two\n three", b"", b"[DONE]"]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("step", [1, 2, 3, 5, 1000])
def test_events_are_the_same_however_they_are_split(end: bytes, step: int) -> None:
    data = end.join([*LINES, b""])
    stream = EventStream()
    found: list[bytes] = []
    for at in range(0, len(data), step):
        found += stream.feed(data[at : at + step])
    assert found == EVENTS


def test_an_event_comes_with_the_byte_that_ends_it() -> None:
    stream = EventStream()
    assert list(stream.feed(b"data: a\r\n\r")) == [b"a"]
    assert list(stream.feed(b"\ndata: b\n")) == []
    assert list(stream.feed(b"\n")) == [b"b"]


@pytest.mark.parametrize("piece", [b"data: " + b"a" * 9999, b"data: a\n" * 1250])
def test_an_event_without_end_is_refused(piece: bytes) -> None:
    stream = EventStream()
    with pytest.raises(BadReply, match="larger than 1,024 KiB"):
        for _ in range(MOST_EVENT_BYTES // 9999 + 60):
            list(stream.feed(piece))


def test_comments_may_go_on_for_ever() -> None:
    stream = EventStream()
    for _ in range(3 * MOST_EVENT_BYTES // 60_000):
        assert list(stream.feed(b": still here\n" * 5000)) == []
    assert list(stream.feed(b"data: a\n\n")) == [b"a"]
