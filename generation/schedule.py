"""Which prompt is in which row of the batch: a row that ends is replaced by the next prompt.

This is bookkeeping only, with neither a model nor a cache. The rows in use are always the first
ones, so that a cache is read as one slice: the last rows move into the places of those that end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Sequence
from itertools import takewhile
from typing import Any

__all__ = ["LEAST_SHARED", "Schedule", "close_gaps", "groups_within", "shared_start"]

LEAST_SHARED = 16
"""Tokens of the shortest beginning of a prompt that is prefilled once and then copied. Fewer are
prefilled about as fast as copied."""


class Schedule:
    """The rows of the running batch, and the prompts that wait for a row.

    Args:
        lengths: tokens of each prompt. The longest start first: prompts of similar length are
            prefilled together, and the last rows that run are short ones.
        limit: the most rows.

    Attributes:
        rows: number of the prompt that is in each row.
    """

    def __init__(self, lengths: Sequence[int], limit: int) -> None:
        self._waiting = deque(sorted(range(len(lengths)), key=lambda i: -lengths[i]))
        self._limit = limit
        self.rows: list[int] = []

    @property
    def unfinished(self) -> int:
        """Number of prompts that run or wait."""
        return len(self.rows) + len(self._waiting)

    def admit(self) -> list[int]:
        """Give free rows to waiting prompts; returns the prompts of the new last rows."""
        count = min(self._limit - len(self.rows), len(self._waiting))
        new = [self._waiting.popleft() for _ in range(count)]
        self.rows += new
        return new

    def retire(self, ended: Collection[int]) -> list[tuple[int, int]]:
        """Drop rows that have ended.

        Args:
            ended: these rows.

        Returns:
            Moves `(source, target)` that close the gaps; what remains are the first rows.
        """
        return close_gaps(self.rows, ended)


def close_gaps(rows: list[Any], ended: Collection[int]) -> list[tuple[int, int]]:
    """Remove these rows from the list; the last rows that remain move into their places.

    Returns:
        The moves `(source, target)`.
    """
    left = len(rows) - len(ended)
    sources = [row for row in range(left, len(rows)) if row not in ended]
    targets = sorted(row for row in ended if row < left)
    moves = list(zip(sources, targets, strict=True))
    for source, target in moves:
        rows[target] = rows[source]
    del rows[left:]
    return moves


def shared_start(prompts: Sequence[Sequence[int]]) -> Sequence[int]:
    """The tokens that all prompts begin with: of a chat template, of examples before a question.

    Empty if there are fewer than two prompts, or fewer such tokens than `LEAST_SHARED`.
    """
    if len(prompts) < 2:
        return []
    # What the first and the last one in the order of their tokens share, all between share too.
    first, last = min(map(list, prompts)), max(map(list, prompts))
    same = takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    length = sum(1 for _ in same)
    return first[:length] if length >= LEAST_SHARED else []


def groups_within(prompts: Sequence[Sequence[int]], tokens: int) -> Iterator[list[Sequence[int]]]:
    """Split prompts into groups of at most so many tokens, padding included.

    A longer prompt is alone.
    """
    group: list[Sequence[int]] = []
    for prompt in prompts:
        width = max(map(len, [*group, prompt]))
        if group and (len(group) + 1) * width > tokens:
            yield group
            group = []
        group.append(prompt)
    if group:
        yield group
