"""The text of one answer while its tokens arrive, divided into its parts."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from .reasoning import Reasoning
from .sequence import Token
from .text import StopSearch, TextStream

__all__ = ["AnswerText", "Part", "Piece"]


class Part(NamedTuple):
    """More text of a part of an answer."""

    kind: Literal["reasoning", "content"]
    text: str


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
    ) -> None:
        self._stream = TextStream(decode)
        self._search = StopSearch(stops)
        self._reasoning = reasoning
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
        if self._search.stopped:
            self.reason = "stop"
        return Piece(parts, self._final_tokens())

    def finish(self, reason: str) -> Piece:
        """End the answer for a reason, and return what was held back."""
        parts = self._divided(self._stream.finish(), final=True)
        self.reason = "stop" if self._search.stopped else reason
        tokens = self._final_tokens() if self._search.stopped else list(self._waiting)
        return Piece(parts, tokens)

    def _divided(self, text: str, final: bool = False) -> list[Part]:
        reasoning = ""
        if self._reasoning:
            reasoning, text = self._reasoning.add(text, final)
        content = self._search.add(text, final)
        found = [Part("reasoning", reasoning), Part("content", content)]
        return [part for part in found if part.text]

    def _final_tokens(self) -> list[tuple[Token, int]]:
        held = self._search.held + (self._reasoning.held if self._reasoning else 0)
        end = self._stream.received - held
        found: list[tuple[Token, int]] = []
        while self._waiting and self._waiting[0][1] < end:
            found.append(self._waiting.popleft())
        return found
