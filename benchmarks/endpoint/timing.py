"""One streamed request: when its tokens arrived, read from the events of the answer.

The definitions are those of vLLM's `bench serve` (`calculate_metrics` in vllm/benchmarks/serve.py,
`async_request_openai_completions` in vllm/benchmarks/lib/endpoint_request_func.py) and of NVIDIA's
GenAI-Perf and its successor AIPerf ("AIPerf Metrics Reference"):

- TTFT: from the request until the first event with content. Events without content do not count,
  as in GenAI-Perf; vLLM also takes an event with an empty text.
- ITL: the time between two successive events with content (vLLM; "inter chunk latency" in AIPerf).
- TPOT: (e2e - TTFT) / (output tokens - 1), one value a request (vLLM). GenAI-Perf calls this
  quantity inter-token latency.
- e2e: from the request until the last event of the answer: content, or why it ended (vLLM).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal

from .http_reply import BadReply

__all__ = ["NO_CONTENT", "Api", "Counted", "RequestTiming", "Usage", "failure_text"]

Api = Literal["completions", "chat"]
Counted = Literal["usage", "tokenizer", "events"]
"""Where a number of tokens is from: the server's usage, a tokenizer, or the number of events."""
CONTENT = ("content", "reasoning_content", "reasoning")
"""Fields of a chat's delta that hold text: the answer, and a model's reasoning before it."""
NO_CONTENT = "the answer has no content"
MOST_TOKENS = 10**9
MESSAGE = 300
"""Characters of a server's own message."""


@dataclass
class Usage:
    """The server's own counts; None for what it does not say."""

    prompt_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None


@dataclass
class RequestTiming:
    """One request. Times are in seconds, by one clock; see the top of the file for the terms."""

    sent: float = 0.0
    first: float | None = None
    """The first event with content."""
    latest: float = 0.0
    """The latest event with content."""
    last: float = 0.0
    """The last event of the answer."""
    gaps: list[float] = field(default_factory=list)
    """Inter-token latencies."""
    text: list[str] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)
    finish: str = ""
    """Why the answer ended."""
    ended: bool = False
    """Whether the stream said that it is complete."""
    output_tokens: int = 0
    counted: Counted = "usage"
    status: int = 0
    """Of the reply; 0 if there was none."""
    error: str = ""
    """Why it failed; empty if it did not."""

    @property
    def events(self) -> int:
        """The number of events with content."""
        return 0 if self.first is None else 1 + len(self.gaps)

    @property
    def ttft(self) -> float:
        """Seconds to the first token."""
        return (self.sent if self.first is None else self.first) - self.sent

    @property
    def e2e(self) -> float:
        """Seconds of the whole request."""
        return self.last - self.sent

    @property
    def tpot(self) -> float | None:
        """Seconds for each token after the first; None if there is one token only."""
        if self.output_tokens < 2:
            return None
        return (self.e2e - self.ttft) / (self.output_tokens - 1)

    def take(self, data: bytes, now: float) -> None:
        """Take the data of an event that arrived `now`.

        Raises:
            BadReply: it is no event of OpenAI's interface, or reports an error.
        """
        if data.strip() == b"[DONE]":
            self.ended = True
            return
        event = _object(data)
        if event.get("error"):
            raise BadReply(f"an error in mid-stream: {failure_text(event)}")
        self._take_usage(event)
        choices = event.get("choices")
        if not isinstance(choices, list) or not choices:
            return
        choice = choices[0] if isinstance(choices[0], dict) else {}
        self.last = now
        if isinstance(choice.get("finish_reason"), str):
            self.finish = choice["finish_reason"]
        content = _content(choice)
        if content is None:
            return
        if self.first is None:
            self.first = now
        else:
            self.gaps.append(now - self.latest)
        self.latest = now
        self.text.append(content)

    def _take_usage(self, event: dict[str, Any]) -> None:
        usage = event.get("usage")
        if isinstance(usage, dict):
            details = usage.get("prompt_tokens_details")
            cached = details.get("cached_tokens") if isinstance(details, dict) else None
            self.usage = Usage(
                _count(usage.get("prompt_tokens")),
                _count(usage.get("completion_tokens")),
                _count(cached),
            )

    def finished(self) -> None:
        """The body is complete.

        Raises:
            BadReply: the answer is not.
        """
        if not (self.ended or self.finish):
            raise BadReply("the stream ended before the answer did")
        if self.first is None:
            raise BadReply(NO_CONTENT)


def _object(data: bytes) -> dict[str, Any]:
    try:
        event = json.loads(data)
    except (ValueError, RecursionError):
        event = None
    if not isinstance(event, dict):
        shown = data[:60].decode("utf-8", "replace")
        raise BadReply(f"an event is not a JSON object: {shown}")
    return event


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value <= MOST_TOKENS else None


def _content(choice: dict[str, Any]) -> str | None:
    """The text in a choice, of a completion or a chat; None if nothing was generated in it."""
    text = choice.get("text")
    if isinstance(text, str) and text:
        return text
    delta = choice.get("delta")
    if not isinstance(delta, dict):
        return None
    for name in CONTENT:
        if isinstance(delta.get(name), str) and delta[name]:
            return delta[name]
    return "" if delta.get("tool_calls") else None


def failure_text(reply: Any) -> str:
    """The message in a server's error, which OpenAI has in `error.message`; cut to one line."""
    error = reply.get("error", reply) if isinstance(reply, dict) else reply
    for name in ("message", "detail"):
        if isinstance(error, dict) and error.get(name):
            error = error[name]
            break
    try:
        text = error if isinstance(error, str) else json.dumps(error)
    except RecursionError:
        text = "an error that is nested too deep"
    return " ".join(text.split())[:MESSAGE]
