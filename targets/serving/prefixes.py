"""Caches of sequences that have ended: a prompt that begins like one of them starts from there.

A second turn of a conversation, or another question after the same long instructions, needs a
prefill of what is new only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...generation.schedule import LEAST_SHARED

__all__ = ["Prefix", "Prefixes"]

States = list[NDArray[Any]]
"""Keys and values of all layers, each [kv_heads, positions, head_dim]."""


class Prefix(NamedTuple):
    """The beginning of a prompt that is known.

    Attributes:
        length: number of its tokens.
        states: its keys and values.
    """

    length: int
    states: States


class _Entry(NamedTuple):
    owner: int
    tokens: NDArray[np.int64]
    states: States


class Prefixes:
    """Keys and values of earlier sequences, within a budget; the least recently used go first.

    Args:
        budget: bytes of all entries; 0: nothing is kept.
        position_bytes: bytes of one position.
    """

    def __init__(self, budget: int, position_bytes: int) -> None:
        self._most_positions = budget // position_bytes
        self._position_bytes = position_bytes
        self._entries: list[_Entry] = []
        """The most recently used one is the last."""

    @property
    def size(self) -> int:
        """Bytes of all entries."""
        return self._positions * self._position_bytes

    @property
    def _positions(self) -> int:
        return sum(len(entry.tokens) for entry in self._entries)

    def may_keep(self, tokens: int) -> bool:
        """Whether a sequence of so many tokens is neither too long nor too short to be kept."""
        return LEAST_SHARED <= tokens <= self._most_positions

    def find(self, tokens: Sequence[int], owner: int) -> Prefix | None:
        """The longest known beginning of a prompt; None: it is too short to be of use.

        Args:
            tokens: the prompt.
            owner: whose it is; nobody gets what another one sent, not even by its timing.
        """
        wanted = np.asarray(tokens, np.int64)
        lengths = [
            _common(entry.tokens, wanted) if entry.owner == owner else 0 for entry in self._entries
        ]
        length = max(lengths, default=0)
        if length < LEAST_SHARED:
            return None
        entry = self._entries.pop(lengths.index(length))
        self._entries.append(entry)
        return Prefix(length, [one[:, :length] for one in entry.states])

    def keep(self, tokens: Sequence[int], owner: int, states: Callable[[], States]) -> None:
        """Keep a sequence, unless it is too long or too short, or the beginning of another one.

        Args:
            tokens: the sequence, one token for each position.
            owner: whose it is.
            states: makes a copy of its keys and values.
        """
        if not self.may_keep(len(tokens)):
            return
        new = np.asarray(tokens, np.int64)
        same = [
            _common(entry.tokens, new) if entry.owner == owner else 0 for entry in self._entries
        ]
        if len(new) in same:
            self._entries.append(self._entries.pop(same.index(len(new))))
            return
        self._entries = [
            entry
            for entry, length in zip(self._entries, same, strict=True)
            if length < len(entry.tokens)
        ]
        while self._positions + len(new) > self._most_positions:
            del self._entries[0]
        with contextlib.suppress(MemoryError):  # what is kept is of use, but nobody waits for it
            self._entries.append(_Entry(owner, new, states()))


def _common(first: NDArray[np.int64], second: NDArray[np.int64]) -> int:
    """The length of the common beginning."""
    length = min(len(first), len(second))
    differ = np.flatnonzero(first[:length] != second[:length])
    return int(differ[0]) if len(differ) else length
