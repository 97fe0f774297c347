"""What may come next in an answer: a budget for thinking, forced tokens, and grammars.

A guide is a list of stages, one after the other. The batcher asks it for the next token of its
sequence while the decoder makes a step, and tells it which token was chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ...errors import EdgewrightError
from .reasoning import CLOSE, OPEN

__all__ = ["Constrained", "Forced", "Free", "Guide", "GuideFailed", "Stage", "Thinking", "Wish"]

Wish = int | NDArray[np.bool_] | None
"""The next token; or which tokens may come next, bool [vocabulary]; or None: any."""
TAIL = 16
"""Latest tokens in which a tag or marker is looked for."""


class GuideFailed(EdgewrightError):
    """A grammar is too complex to go on, or no token fits."""


class Stage(Protocol):
    """A part of an answer that has a rule of its own."""

    def wish(self) -> Wish:
        """What may come next."""
        ...

    def take(self, token: int) -> bool:
        """Take in the token that was chosen; returns whether the stage is complete."""
        ...


class Guide:
    """Guides one sequence through stages. It is used by one thread at a time.

    Args:
        stages: functions that make the stages, each when it begins. Without any that are left,
            the answer is complete.
        repeat: begin again with the stage of this number instead; None: do not.
    """

    def __init__(self, stages: Sequence[Callable[[], Stage]], *, repeat: int | None = None) -> None:
        self._stages = stages
        self._repeat = repeat
        self._next = 0
        self._stage = self._begin()

    def _begin(self) -> Stage | None:
        if self._repeat is not None and self._next == len(self._stages):
            self._next = self._repeat
        if self._next == len(self._stages):
            return None
        self._next += 1
        return self._stages[self._next - 1]()

    def wish(self) -> Wish:
        """What may come next."""
        return self._stage.wish() if self._stage else None

    def take(self, token: int) -> bool:
        """Take in the token that was chosen; returns whether the answer is complete."""
        if self._stage and self._stage.take(token):
            self._stage = self._begin()
        return self._stage is None


class Free:
    """Anything may come, until a text appears.

    Args:
        until: the text; None: it goes on to the end of the answer.
        decode: converts token ids to text.
    """

    def __init__(self, until: str | None = None, decode: Callable[[list[int]], str] = str) -> None:
        self._until = until
        self._decode = decode
        self._tail: list[int] = []

    def wish(self) -> Wish:
        """See `Stage.wish`."""
        return None

    def take(self, token: int) -> bool:
        """See `Stage.take`."""
        self._tail = [*self._tail[1 - TAIL :], token]
        return self._until is not None and self._until in self._decode(self._tail)


class Forced:
    """These tokens come, at least one."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self._left = list(tokens)

    def wish(self) -> Wish:
        """See `Stage.wish`."""
        return self._left[0]

    def take(self, token: int) -> bool:
        """See `Stage.take`."""
        self._left.pop(0)
        return not self._left


class Thinking:
    """The reasoning at the beginning of an answer, if there is any.

    Args:
        opened: whether the prompt opened it; else the answer may begin with the tag.
        budget: the most tokens between the tags; then the closing tag is forced. None: no limit.
        closing: the tokens of the closing tag.
        decode: converts token ids to text.
        inner: tokens that may come inside, bool [vocabulary]; None: all.
    """

    def __init__(
        self,
        opened: bool,
        budget: int | None,
        closing: Sequence[int],
        decode: Callable[[list[int]], str],
        inner: NDArray[np.bool_] | None = None,
    ) -> None:
        self._inside = opened
        self._budget = budget
        self._closing = list(closing)
        self._decode = decode
        self._inner = inner
        self._tail: list[int] = []
        self._count = 0

    def wish(self) -> Wish:
        """See `Stage.wish`."""
        if not self._inside:
            return None
        if self._budget is not None and self._count >= self._budget:
            return self._closing[self._count - self._budget]
        return self._inner

    def take(self, token: int) -> bool:
        """See `Stage.take`."""
        self._tail = [*self._tail[1 - TAIL :], token]
        text = self._decode(self._tail)
        if self._inside:
            self._count += 1
            return CLOSE in text
        begun = text.lstrip()
        self._inside = begun.startswith(OPEN)
        if self._inside:
            self._tail = []
        return not self._inside and (not OPEN.startswith(begun) or len(self._tail) == TAIL)


class Constrained:
    """Only what a grammar allows comes, until it is complete.

    Args:
        matcher: llguidance's matcher, which nobody else uses.
        vocabulary: number of logits of a position.
    """

    def __init__(self, matcher: Any, vocabulary: int) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary

    def wish(self) -> Wish:
        """See `Stage.wish`.

        Raises:
            GuideFailed: the grammar is too complex, or no token fits.
        """
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        allowed = np.unpackbits(bits, bitorder="little")[: self._vocabulary].astype(np.bool_)
        if self._matcher.is_error() or not allowed.any():
            raise GuideFailed(
                f"the answer cannot go on in the wanted format: {self._matcher.get_error()}"
            )
        return allowed

    def take(self, token: int) -> bool:
        """See `Stage.take`.

        Raises:
            GuideFailed: the grammar does not allow the token, or is too complex.
        """
        self._matcher.consume_token(token)
        if self._matcher.is_error():
            raise GuideFailed(f"the answer has left the wanted format: {self._matcher.get_error()}")
        return bool(self._matcher.is_stopped())
