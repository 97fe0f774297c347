"""The text of one answer while its tokens arrive, divided into its parts."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from .reasoning import Reasoning
from .sequence import Token
from .text import StopSearch, TextStream
from .tool_calls import ToolCalls
from .tool_formats import Call

__all__ = ["AnswerText", "Part", "Piece"]


class Part(NamedTuple):
    """More of an answer: more text of its reasoning or its content, or a call of a tool."""

    kind: Literal["reasoning", "content", "call"]
    text: str
    call: Call | None = None


@dataclass(frozen=True)
class Piece:
    """What has become final of an answer.

    Attributes:
        parts: more text of its parts.
        tokens: the tokens of this text with log probabilities, and where each begins in the text.
    """

    parts: list[Part] = field(default_factory=list[Part])
    tokens: list[tuple[Token, int]] = field(default_factory=list[tuple[Token, int]])


class AnswerText:
    """Converts the tokens of an answer to its parts. A stop text does not end the reasoning.

    Args:
        decode: converts token ids to text.
        stops: texts that end the answer; they are not part of it.
        reasoning: separates the reasoning; None: there is none.
        calls: takes out calls of tools; None: there are none.

    Attributes:
        reason: why the answer ended; None while it goes on.
        count: number of tokens.
        reasoning_count: number of tokens of the reasoning.
    """

    def __init__(
        self,
        decode: Callable[[list[int]], str],
        stops: Sequence[str] = (),
        reasoning: Reasoning | None = None,
        calls: ToolCalls | None = None,
    ) -> None:
        self._stream = TextStream(decode)
        self._search = StopSearch(stops)
        self._reasoning = reasoning
        self._calls = calls
        self._waiting: deque[tuple[Token, int]] = deque()
        """Tokens whose text is not final, and where it begins."""
        self.reason: str | None = None
        self.count = 0
        self.reasoning_count = 0

    def add(self, token: Token) -> Piece:
        """Add a token."""
        self.count += 1
        if token.logprob is not None:
            self._waiting.append((token, self._stream.received))
        parts = self._divided(self._stream.add(token.id))
        if self._reasoning and self._reasoning.inside:
            self.reasoning_count += 1
        if self._calls and self._calls.complete:
            self.reason = "tool_calls"
        elif self._search.stopped:
            self.reason = self._reason("stop")
        return Piece(parts, self._final_tokens())

    def finish(self, reason: str) -> Piece:
        """End the answer for a reason, and return what was held back."""
        parts = self._divided(self._stream.finish(), final=True)
        self.reason = self._reason("stop" if self._search.stopped else reason)
        tokens = self._final_tokens() if self._search.stopped else list(self._waiting)
        return Piece(parts, tokens)

    def _reason(self, reason: str) -> str:
        return "tool_calls" if self._calls and self._calls.count and reason == "stop" else reason

    def _divided(self, text: str, final: bool = False) -> list[Part]:
        reasoning = ""
        if self._reasoning:
            reasoning, text = self._reasoning.add(text, final)
        content = self._search.add(text, final)
        found = [Part("reasoning", reasoning)]
        if self._calls:
            last = final or self._search.stopped
            found += map(_part, self._calls.add(content, last))
        else:
            found.append(Part("content", content))
        return [part for part in found if part.text or part.call]

    def _final_tokens(self) -> list[tuple[Token, int]]:
        held = self._search.held
        held += self._reasoning.held if self._reasoning else 0
        held += self._calls.held if self._calls else 0
        end = self._stream.received - held
        found: list[tuple[Token, int]] = []
        while self._waiting and self._waiting[0][1] < end:
            found.append(self._waiting.popleft())
        return found


def _part(one: str | Call) -> Part:
    return Part("content", one) if isinstance(one, str) else Part("call", "", one)
