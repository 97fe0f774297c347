"""What the batcher has done, as the server's own counters: tokens, and the seconds between them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol
from weakref import WeakKeyDictionary

__all__ = ["Answered", "WorkCounters"]


class Answered(Protocol):
    """A sequence of the batch, and the tokens of its prompt."""

    ids: Sequence[int]


class WorkCounters:
    """Counts the tokens of prompts and answers, and times the tokens after the first of an answer.

    Args:
        clock: gives seconds.

    Attributes:
        prompt_tokens: tokens of the prompts whose answers have begun.
        later_tokens: generated tokens without the first one of each answer.
        later_seconds: seconds from the token before to each of them, all sequences together.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._latest = WeakKeyDictionary[Answered, float]()
        """When a sequence got its latest token."""
        self.prompt_tokens = 0
        self.later_tokens = 0
        self.later_seconds = 0.0

    def wrote(self, row: Answered) -> None:
        """A token of a sequence was generated."""
        now = self._clock()
        before = self._latest.get(row)
        self._latest[row] = now
        if before is None:
            self.prompt_tokens += len(row.ids)
        else:
            self.later_tokens += 1
            self.later_seconds += now - before
