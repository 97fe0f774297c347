"""One request: the definitions of its times, and what its events may be."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgewright.benchmarks.endpoint.figures import count_tokens
from edgewright.benchmarks.endpoint.http_reply import BadReply
from edgewright.benchmarks.endpoint.timing import RequestTiming, failure_text


def completion(text: str, finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "text": text, "finish_reason": finish}], **more}


def chat(finish: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def timed(*events: tuple[float, Any], sent: float = 10.0) -> RequestTiming:
    """A request whose events came at these seconds after it was sent."""
    timing = RequestTiming(sent=sent)
    for after, event in events:
        data = event if isinstance(event, bytes) else json.dumps(event).encode()
        timing.take(data, sent + after)
    return timing


def test_the_times_are_those_of_vllm() -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": 5}
    timing = timed(
        (2.0, completion("a")),
        (2.5, completion("b")),
        (4.0, completion("cd")),
        (5.0, completion("", "length")),
        (6.0, {"choices": [], "usage": usage}),
        (7.0, b"[DONE]"),
    )
    timing.finished()
    count_tokens(timing, None)
    assert timing.ttft == 2.0
    assert timing.gaps == [0.5, 1.5]
    assert timing.e2e == 5.0, "the last event of the answer, not that of the usage"
    assert timing.output_tokens == 5
    assert timing.tpot == (5.0 - 2.0) / 4
    assert timing.events == 3
    assert timing.usage.prompt_tokens == 7


def test_events_without_content_are_no_token() -> None:
    """As in GenAI-Perf: the first event of a chat has a role and no text."""
    timing = timed(
        (1.0, chat(role="assistant", content="")),
        (1.5, chat(role="assistant", content=None)),
        (3.0, chat(content="a")),
        (4.0, chat(content="")),
        (5.0, chat(content="b")),
        (5.5, chat("stop")),
    )
    assert timing.ttft == 3.0
    assert timing.gaps == [2.0]
    assert timing.e2e == 5.5


@pytest.mark.parametrize("name", ["content", "reasoning_content", "reasoning"])
def test_reasoning_is_content(name: str) -> None:
    timing = timed((1.0, chat(**{name: "a"})), (2.0, chat(tool_calls=[{"index": 0}])))
    assert timing.ttft == 1.0
    assert timing.gaps == [1.0]


def test_tokens_are_counted_by_usage_then_tokenizer_then_events() -> None:
    events = [(1.0, completion("one two")), (2.0, completion(" three", "length"))]
    by_events = timed(*events)
    count_tokens(by_events, None)
    assert (by_events.output_tokens, by_events.counted) == (2, "events")
    by_tokenizer = timed(*events)
    count_tokens(by_tokenizer, lambda text: len(text.split()))
    assert (by_tokenizer.output_tokens, by_tokenizer.counted) == (3, "tokenizer")
    by_usage = timed(*events, (3.0, {"usage": {"completion_tokens": 9}}))
    count_tokens(by_usage, lambda text: len(text.split()))
    assert (by_usage.output_tokens, by_usage.counted) == (9, "usage")


@pytest.mark.parametrize("value", ["5", 5.0, True, -1, None, 10**30, [5]])
def test_a_count_that_is_none_is_not_used(value: Any) -> None:
    timing = timed((1.0, completion("a", "stop", usage={"completion_tokens": value})))
    count_tokens(timing, None)
    assert (timing.output_tokens, timing.counted) == (1, "events")


def test_one_token_has_no_time_per_token() -> None:
    timing = timed((1.0, completion("a", "length")))
    count_tokens(timing, None)
    assert timing.tpot is None


@pytest.mark.parametrize(
    "event",
    [b"", b"{", b"null", b"[]", b'"a"', b"\xff", b"[" * 100_000, b"1" * 5000],
)
def test_what_is_no_object_is_an_error(event: bytes) -> None:
    with pytest.raises(BadReply, match="an event is not a JSON object"):
        timed((1.0, event))


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"choices": None},
        {"choices": {}},
        {"choices": [None]},
        {"choices": [{"text": 1}]},
        {"choices": [{"delta": "a"}]},
        {"choices": [{"delta": {"content": ["a"]}}]},
        {"choices": [], "usage": [1]},
        {"usage": {"prompt_tokens_details": 1}},
    ],
)
def test_odd_events_are_no_token(event: Any) -> None:
    timing = timed((1.0, event), (2.0, completion("a", "stop")))
    assert timing.ttft == 2.0
    assert timing.events == 1


def test_an_answer_must_be_complete_and_have_content() -> None:
    with pytest.raises(BadReply, match="the stream ended before the answer did"):
        timed((1.0, completion("a"))).finished()
    with pytest.raises(BadReply, match="the answer has no content"):
        timed((1.0, completion("", "stop"))).finished()
    timed((1.0, completion("a")), (2.0, b" [DONE] ")).finished()


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ({"error": {"message": "too  long\n", "code": 1}}, "too long"),
        ({"detail": "gone"}, "gone"),
        ({"detail": [{"loc": 1}]}, '[{"loc": 1}]'),
        ({"error": "plain"}, "plain"),
        ("<html>", "<html>"),
        (None, "null"),
        ({"error": {"message": "a" * 999}}, "a" * 300),
    ],
)
def test_what_a_server_says(reply: Any, said: str) -> None:
    assert failure_text(reply) == said


def test_what_a_server_says_may_be_nested() -> None:
    reply: Any = "deep"
    for _ in range(100_000):
        reply = [reply]
    assert failure_text(reply) == "an error that is nested too deep"


def test_an_error_in_mid_stream() -> None:
    with pytest.raises(BadReply, match="an error in mid-stream: out of memory"):
        timed((1.0, completion("a")), (2.0, {"error": {"message": "out of memory"}}))
