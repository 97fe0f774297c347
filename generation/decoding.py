"""How answers are decoded: when they end, and how their tokens are chosen."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Answered", "Decoding", "Ended", "TokenChooser", "greedy", "until_end"]

Answered = Callable[[int, Sequence[int]], None]
"""Is told each finished answer: the number of its prompt, and its tokens with what ended them."""

Ended = Callable[[Sequence[int]], bool]
"""Whether an answer is complete, from its tokens so far. For ends that are not a single token."""
TokenChooser = Callable[["Tensor", "Tensor", "Tensor"], "Tensor"]
"""Chooses the next tokens, int64 [rows]. Its arguments are the logits [rows, vocab], the numbers
of these rows among the prompts, and the number of tokens that each has so far, int64 [rows]."""


def greedy(logits: Tensor, rows: Tensor, steps: Tensor) -> Tensor:
    """Choose the most likely tokens; see `TokenChooser`."""
    return logits.argmax(-1)


@dataclass(frozen=True)
class Decoding:
    """How a set of prompts is answered.

    Attributes:
        max_new_tokens: the most tokens of an answer, at least 1.
        ends: tokens that end an answer.
        ended: also ends an answer, if it returns true for the tokens so far.
        choose: chooses the tokens.
        answered: is told each answer as soon as it is finished.
    """

    max_new_tokens: int
    ends: Collection[int] = ()
    ended: Ended | None = None
    choose: TokenChooser = greedy
    answered: Answered | None = None

    def complete(self, answer: Sequence[int]) -> bool:
        """Whether an answer ends with its last token."""
        return (
            answer[-1] in self.ends
            or len(answer) >= self.max_new_tokens
            or (self.ended is not None and self.ended(answer))
        )


def until_end(tokens: Sequence[int], ends: Collection[int]) -> list[int]:
    """The tokens of an answer before the first one that ends it."""
    return list(tokens[: next((at for at, token in enumerate(tokens) if token in ends), None)])
