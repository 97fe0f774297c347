"""Servers that lack something, break, or attack: one clear message, or a counted failure."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from scripted_server import (
    CLOSE,
    HEAD,
    Answer,
    Asked,
    ScriptedServer,
    chunk,
    document,
    event,
    good,
    prompt_length,
    serving,
    text_event,
)

from edgewright.benchmarks.endpoint.connection import Wire
from edgewright.benchmarks.endpoint.http_reply import BadReply, HttpReply
from edgewright.benchmarks.endpoint.latency import bench_server
from edgewright.benchmarks.endpoint.options import LoadOptions
from edgewright.errors import EdgewrightError

Pieces = Callable[[Asked], list[bytes]]
DONE = b"data: [DONE]\n\n"


def bench(server: ScriptedServer, **options: Any) -> dict[str, Any]:
    options = {"concurrency": (1,), "requests": 4, "output_tokens": 4, **options}
    with serving(server):
        return bench_server(server.url, LoadOptions(**options), None)


def streaming(pieces: Pieces, after: int = 0) -> Answer:
    """An answer of these pieces, after so many good streams; without a stream it is good."""
    streams: list[Asked] = []

    async def answer(asked: Asked) -> AsyncIterator[bytes]:
        if asked.streams:
            streams.append(asked)
        if not asked.streams or len(streams) <= after:
            async for part in good(asked):
                yield part
            return
        yield HEAD + b"\r\n"
        for piece in pieces(asked):
            yield piece
        yield CLOSE

    return answer


def spelled(end: bytes, *comments: bytes) -> Pieces:
    """Four tokens with other ends of lines, and comments between events."""

    def pieces(asked: Asked) -> list[bytes]:
        usage = {"prompt_tokens": prompt_length(asked), "completion_tokens": 4}
        events = [event({"choices": [{"text": "a"}]}, end) for _ in range(4)]
        between = [piece for one in events for piece in (*comments, one)]
        return [*between, event({"choices": [], "usage": usage}, end), b"data: [DONE]" + 2 * end]

    return pieces


@pytest.mark.parametrize(
    "pieces",
    [
        spelled(b"\r\n"),
        spelled(b"\r"),
        spelled(b"\n", b": keep-alive\n\n"),
        spelled(b"\n", b":\n", b"event: token\nid: 3\nretry: 10\n"),
        spelled(b"\n", *([b": " + b"x" * 60_000 + b"\n"] * 3)),
        lambda asked: [b"".join(spelled(b"\r\n")(asked))],
        lambda asked: [bytes([one]) for one in b"".join(spelled(b"\n")(asked))],
    ],
    ids=["crlf", "cr", "comments", "fields", "long comments", "in one piece", "in bytes"],
)
def test_other_spellings_are_measured(pieces: Pieces) -> None:
    found = bench(ScriptedServer(streaming(pieces)))
    assert found["metrics"]["failed_requests/concurrency1"] == 0
    assert found["context"]["load/concurrency1"]["output_tokens"] == 4
    assert found["notes"] == []


BROKEN: list[tuple[str, Pieces, str]] = [
    ("no end", lambda _: [text_event("a")], "the stream ended before the answer did"),
    ("nothing", lambda _: [], "the stream ended before the answer did"),
    ("no text", lambda _: [text_event("", "stop"), DONE], "the answer has no content"),
    ("no JSON", lambda _: [text_event("a"), b"data: {oops\n\n"], "not a JSON object: {oops"),
    ("deep", lambda _: [b"data: " + b"[" * 9999 + b"\n\n"], "not a JSON object"),
    ("error", lambda _: [event({"error": {"message": "no memory"}})], "mid-stream: no memory"),
    ("huge line", lambda _: [b"data: " + b"a" * 2_000_000], "larger than 1,0"),
    ("no end of text", lambda _: [text_event("a")] * 50_000, "larger than 1,0"),
]


@pytest.mark.parametrize(("pieces", "said"), [b[1:] for b in BROKEN], ids=[b[0] for b in BROKEN])
def test_failed_requests_are_counted_and_in_no_percentile(pieces: Pieces, said: str) -> None:
    found = bench(ScriptedServer(streaming(pieces, after=1 + 1 + 2)))
    assert found["metrics"]["failed_requests/concurrency1"] == 2
    assert found["context"]["load/concurrency1"]["requests"] == 4
    assert found["context"]["load_details/concurrency1"]["output_tokens"] == 8
    (note,) = found["notes"]
    assert note.startswith("concurrency1: 2 of 4 requests failed and are in no other figure: ")
    assert said in note


@pytest.mark.parametrize(("pieces", "said"), [b[1:] for b in BROKEN], ids=[b[0] for b in BROKEN])
def test_if_all_fail_it_is_an_error(pieces: Pieces, said: str) -> None:
    with pytest.raises(EdgewrightError, match=said) as caught:
        bench(ScriptedServer(streaming(pieces, after=1)))
    assert "all 4 requests failed" in str(caught.value)


@pytest.mark.parametrize("count", [0, 3, 20, 80, 150])
def test_a_connection_that_breaks_in_mid_stream(count: int) -> None:
    """Wherever in the chunks that is."""
    whole = HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(text_event("a")) * 3

    async def cut(asked: Asked) -> AsyncIterator[bytes]:
        if asked.streams and len(server.streamed) == 4:
            yield whole[:count]
            yield CLOSE
        async for part in good(asked):
            yield part

    server = ScriptedServer(cut)
    found = bench(server)
    again = count == 0  # nothing of an answer: the connection was idle too long, and it asks again
    assert found["metrics"]["failed_requests/concurrency1"] == (0 if again else 1)
    said = "1 requests were sent again" if again else "before the reply was complete (1 times)"
    assert said in found["notes"][0]


def test_a_connection_that_is_reset_in_mid_stream() -> None:
    async def reset() -> None:
        wire = Wire(lambda: 0.0)
        transport = Mock(spec=asyncio.Transport)
        transport.is_closing.return_value = False
        wire.connection_made(transport)
        asking = asyncio.ensure_future(wire.ask(b"", HttpReply(lambda *_: None, 100)))
        await asyncio.sleep(0)
        wire.data_received(b"HTTP/1.1 200 OK\r\n\r\nabc")
        wire.connection_lost(ConnectionResetError(104, "Connection reset by peer"))
        await asking

    with pytest.raises(BadReply, match="was lost: Connection reset by peer"):
        asyncio.run(reset())


def status(line: str, value: Any, after: int = 0) -> Answer:
    """After so many good streams, an answer with another status."""
    streams: list[Asked] = []

    async def answer(asked: Asked) -> AsyncIterator[bytes]:
        if asked.streams:
            streams.append(asked)
        if len(streams) <= after:
            async for part in good(asked):
                yield part
        else:
            yield document(value, line)

    return answer


def test_a_server_that_is_busy_is_said() -> None:
    busy = {"error": {"message": "too many requests are waiting"}}
    found = bench(ScriptedServer(status("429 Too Many Requests", busy, after=3)), requests=6)
    assert found["metrics"]["failed_requests/concurrency1"] == 5
    assert "HTTP 429: too many requests are waiting (5 times)" in found["notes"][0]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (status("200 OK", {"choices": []}), "does not stream: it answered with application/json"),
        (status("500 Server Error", "<html>oops</html>"), "HTTP 500: <html>oops</html>"),
        (status("302 Found", ""), "HTTP 302"),
        (status("404 Not Found", {"detail": "Not Found"}), "HTTP 404: Not Found"),
    ],
)
def test_what_cannot_be_measured_is_one_message(answer: Answer, said: str) -> None:
    with pytest.raises(EdgewrightError, match=said):
        bench(ScriptedServer(answer))


def test_no_server_and_no_http() -> None:
    with serving(ScriptedServer()) as server:
        url = server.url
    with pytest.raises(EdgewrightError, match=r"refused|failed"):
        bench_server(url, LoadOptions(), None)
    with pytest.raises(EdgewrightError, match="does not speak HTTP"):
        bench(ScriptedServer(models=b"SSH-2.0-OpenSSH_9.6\r\n"))


def test_optional_fields_that_a_server_refuses_are_left_out() -> None:
    known = {"model", "prompt", "max_tokens", "stream", "temperature"}

    async def strict(asked: Asked) -> AsyncIterator[bytes]:
        if asked.body.keys() - known:
            yield document({"error": {"message": "extra fields"}}, "422 Unprocessable Entity")
            return
        if not asked.streams:
            async for part in good(asked):
                yield part
            return
        count = asked.body["max_tokens"] - 1
        yield HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
        for _ in range(count):
            yield chunk(text_event("a"))
        yield chunk(text_event("", "stop") + DONE) + b"0\r\n\r\n"

    server = ScriptedServer(strict)
    found = bench(server)
    assert found["metrics"]["failed_requests/concurrency1"] == 0
    assert server.streamed[-1].body["temperature"] == 0.0
    assert found["context"]["endpoint"]["ignore_eos"] is False
    assert found["context"]["load/concurrency1"]["tokens_counted"] == "events"
    assert found["context"]["load/concurrency1"]["prompt_tokens"] == 64, "of a plain request"
    assert found["notes"] == [
        "the server refuses ignore_eos: answers may end before --output-tokens",
        "concurrency1: answers have 3 tokens, of the 4 asked for",
        "concurrency1: the server sends no usage: each event of a stream counts as a token",
    ]


def test_no_usage_anywhere() -> None:
    async def bare(asked: Asked) -> AsyncIterator[bytes]:
        if not asked.streams:
            yield document({"choices": [{"text": "a"}]})
            return
        yield HEAD + b"\r\n"
        for _ in range(4):
            yield text_event("a")
        yield DONE
        yield CLOSE

    found = bench(ScriptedServer(bare))
    assert found["context"]["load/concurrency1"]["prompt_tokens"] is None
    assert (
        "concurrency1: the server does not say how many tokens its prompts have" in found["notes"]
    )


def test_half_characters_are_counted_with_a_tokenizer(make_model: Callable[..., Path]) -> None:
    events = [text_event("a\ud83d"), text_event("\ude00 b", "stop"), DONE]
    server = ScriptedServer(streaming(lambda _: events))
    found = bench(server, tokenizer=make_model("llama"))
    assert found["context"]["load/concurrency1"]["tokens_counted"] == "tokenizer"
    assert found["context"]["load/concurrency1"]["output_tokens"] >= 3
    assert (
        "concurrency1: the server sends no usage: answers were counted with --tokenizer"
        in (found["notes"])
    )
    assert {len(one.body["prompt"]) for one in server.streamed[1:]} == {64}, "ids of the tokenizer"


def test_several_tokens_an_event_and_a_cache_are_said() -> None:
    def pieces(asked: Asked) -> list[bytes]:
        details = {"cached_tokens": 32}
        usage = {"prompt_tokens": 64, "completion_tokens": 4, "prompt_tokens_details": details}
        last = event({"choices": [], "usage": usage})
        return [text_event("a b"), text_event("c d", "length"), last, DONE]

    found = bench(ScriptedServer(streaming(pieces)))
    assert any("16 tokens came in 8 events" in note for note in found["notes"])
    assert any("128 of 256 prompt tokens were in the server's cache" in n for n in found["notes"])


def test_an_idle_connection_that_the_server_closed_is_no_failure() -> None:
    async def closing(asked: Asked) -> AsyncIterator[bytes]:
        async for part in good(asked):
            yield part
        yield CLOSE

    server = ScriptedServer(closing)
    found = bench(server, requests=20)
    assert found["metrics"]["failed_requests/concurrency1"] == 0
    assert server.opened > 20


def test_a_slow_request_and_the_time_limit() -> None:
    async def stuck(asked: Asked) -> AsyncIterator[bytes]:
        async for part in good(asked):
            yield part
            if len(server.streamed) > 3 and asked.streams:
                await asyncio.sleep(3600)

    server = ScriptedServer(stuck)
    found = bench(server, request_seconds=0.5, requests=2)
    assert found["metrics"]["failed_requests/concurrency1"] == 1
    assert "no complete answer within 0.5 s (1 times)" in found["notes"][0]
    server = ScriptedServer(stuck)
    found = bench(server, time_limit=1.5, requests=5)
    assert found["metrics"]["failed_requests/concurrency1"] == 1
    sent, failed = found["notes"]
    assert "2 requests were sent, of the 5 asked for: --time-limit 1.5 s was over" in sent
    assert "still running when --time-limit 1.5 s was over (1 times)" in failed
    server = ScriptedServer(stuck)
    found = bench(server, time_limit=1.5, requests=5, concurrency=(1, 2))
    assert "concurrency2: 0 requests were sent" in "".join(found["notes"])
    assert not [name for name in found["metrics"] if "concurrency2" in name], "nothing was measured"
