"""Continuous batching in ONNX Runtime: the caches of rows that come and go. Needs numpy only.

All rows end in the same column, so a row that is shorter has unused columns before it, and a mask
hides them. Rotary positions are counted from the mask, so keys do not depend on their column, and
a prompt can be prefilled apart and then put in front of the common end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...generation.memory import chunk_tokens, rows_within
from ...generation.schedule import groups_within
from .runtime import Cache, OnnxDecoder, past_of

__all__ = ["OnnxEngine", "OnnxSlots"]

SLACK = 128
"""Spare columns of a cache that is written in place. When they are full, all rows move back."""


class OnnxEngine:
    """A decoder that can answer several prompts at the same time; see `generation.Engine`."""

    def __init__(self, decoder: OnnxDecoder) -> None:
        self._decoder = decoder

    def rows_for(self, positions: int, prompts: int) -> int:
        """See `generation.Engine.rows_for`.

        A cache that drops old columns holds one row, because it would keep those of padding. One
        that is not written in place is there twice while a step runs: past and present.
        """
        decoder = self._decoder
        if decoder.windowed:
            return 1
        copies = 1 if decoder.in_place else 2
        position_bytes = copies * decoder.position_bytes
        return rows_within(positions + SLACK, position_bytes, decoder.vocabulary, prompts)

    def slots(self, rows: int, positions: int) -> OnnxSlots:
        """See `generation.Engine.slots`."""
        if self._decoder.in_place:
            return _InPlaceSlots(self._decoder, rows, positions + SLACK)
        return _CopiedSlots(self._decoder)


class OnnxSlots:
    """See `generation.Slots`; how rows join and leave depends on how the cache is written."""

    def __init__(self, decoder: OnnxDecoder) -> None:
        self._decoder = decoder
        self._cache = Cache([])
        self._starts: list[int] = []
        """The first column of each row; all end where the cache does."""
        self._shared: Sequence[NDArray[Any]] = []

    def share(self, tokens: Sequence[int]) -> None:
        """See `generation.Slots.share`. A cache that drops old columns cannot be copied."""
        if self._decoder.windowed:
            return
        self.append([tokens])
        self._shared = self.states(0)
        self.retire([], 0)

    def append(self, prompts: Sequence[Sequence[int]]) -> None:
        """See `generation.Slots.append`."""
        for _ in self.appending(prompts):
            pass

    def positions(self, row: int) -> int:
        """The number of tokens that a row has taken in."""
        return self._cache.length - self._starts[row]

    def states(self, row: int) -> list[NDArray[Any]]:
        """A copy of the keys and values of a row, each [kv_heads, positions, head_dim]."""
        columns = slice(self._starts[row], self._cache.length)
        return [states[row, :, columns].copy() for states in self._all_states()]

    def continuing(self, prompt: Sequence[int], states: Sequence[NDArray[Any]]) -> Iterator[None]:
        """Append a prompt whose first tokens have known keys and values; see `appending`.

        Args:
            prompt: all tokens of the new row.
            states: as `states` gives them, for at most as many positions as the prompt has tokens.
        """
        cache = self._opened([prompt], states)
        yield from self._prefill([prompt], cache)
        self._join(cache, [len(prompt)])

    def appending(self, prompts: Sequence[Sequence[int]]) -> Iterator[None]:
        """Append prompts, and yield after each pass of the prefill but the last.

        Between two passes other rows may step and retire. A prefill that fails, or that is not
        carried to its end, changes nothing but the groups of prompts that are already rows.
        """
        groups = groups_within(prompts, self.most_tokens)
        if self._shared and self._decoder.in_place:
            # `GroupQueryAttention` takes several tokens after others in one row only.
            groups = ([prompt] for prompt in prompts)
        for group in groups:
            cache = self._opened(group, self._shared)
            yield from self._prefill(group, cache)
            self._join(cache, [len(prompt) for prompt in group])

    def _opened(self, prompts: Sequence[Sequence[int]], states: Sequence[NDArray[Any]]) -> Cache:
        """A cache for prompts whose first tokens have these keys and values; none: it is empty."""
        width = max(map(len, prompts))
        if not states:
            return self._decoder.open_cache(len(prompts), width)
        known = states[0].shape[1]
        room = width if self._decoder.in_place else known
        filled = self._decoder.zero_states(len(prompts), room)
        for rows, one in zip(filled, states, strict=True):
            rows[:, :, :known] = one
        return Cache(past_of(filled), known)

    @property
    def most_tokens(self) -> int:
        """The most tokens, padding included, of one pass of a prefill."""
        return chunk_tokens(self._decoder.vocabulary, not self._decoder.last_logits)

    def _prefill(self, prompts: Sequence[Sequence[int]], cache: Cache) -> Iterator[None]:
        """Extend the cache by prompts that are padded on the right; yields between passes."""
        width = max(map(len, prompts))
        ids = np.array([[*ids, *[0] * (width - len(ids))] for ids in prompts], np.int64)
        chunk = max(1, self.most_tokens // len(prompts))
        for begin in range(cache.length, width, chunk):
            end = min(begin + chunk, width)
            mask = np.ones((len(prompts), end), np.int64)
            self._decoder.step(ids[:, begin:end], mask, cache)
            if end < width:
                yield

    def step(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """See `generation.Slots.step`."""
        columns = np.arange(self._cache.length + 1)
        mask = (columns >= np.array(self._starts)[:, None]).astype(np.int64)
        return self._decoder.step(np.array(tokens)[:, None], mask, self._cache)[:, -1]

    def retire(self, moves: Sequence[tuple[int, int]], count: int) -> None:
        """See `generation.Slots.retire`."""
        if count == len(self._starts):
            return
        for source, target in moves:
            self._starts[target] = self._starts[source]
        del self._starts[count:]
        self._leave(moves)

    def _all_states(self) -> Iterator[NDArray[Any]]:
        """Keys and values of all rows, each [rows, kv_heads, columns, head_dim]."""
        return (value.numpy() for value in self._cache.past)

    def _join(self, cache: Cache, lengths: Sequence[int]) -> None:
        """Append the rows of a cache; each has so many tokens, from column 0 on."""
        raise NotImplementedError

    def _leave(self, moves: Sequence[tuple[int, int]]) -> None:
        """Copy rows `(source, target)`, and keep those that have a start."""
        raise NotImplementedError


class _CopiedSlots(OnnxSlots):
    """The cache is copied by every step anyway, and has as many rows and columns as are needed."""

    def _join(self, cache: Cache, lengths: Sequence[int]) -> None:
        """See `OnnxSlots._join`."""
        old = len(self._starts)
        if not old and min(lengths) == cache.length:
            self._cache = cache
            self._starts = [0] * len(lengths)
            return
        before = self._cache.length
        end = max(before, *lengths)
        joined = self._decoder.zero_states(old + len(lengths), end)
        for states, value in zip(joined, cache.past, strict=True):
            _write(states[old:], value.numpy(), lengths, end)
        for states, value in zip(joined, self._cache.past, strict=False):  # none if `old` is 0
            states[:old, :, end - before :] = value.numpy()[:, :, :before]
        self._starts = [start + end - before for start in self._starts]
        self._starts += [end - length for length in lengths]
        self._cache = Cache(past_of(joined), end)

    def _leave(self, moves: Sequence[tuple[int, int]]) -> None:
        """See `OnnxSlots._leave`; columns that no row uses any more are dropped."""
        count = len(self._starts)
        unused = min(self._starts, default=self._cache.length)
        rows = list(range(count))
        for source, target in moves:
            rows[target] = source
        past = [value.numpy()[rows][:, :, unused:] for value in self._cache.past if rows]
        self._starts = [start - unused for start in self._starts]
        self._cache = Cache(past_of(past), self._cache.length - unused)


class _InPlaceSlots(OnnxSlots):
    """The cache is the first rows of a buffer that has room for all."""

    def __init__(self, decoder: OnnxDecoder, rows: int, positions: int) -> None:
        super().__init__(decoder)
        self._buffer = decoder.zero_states(rows, positions)

    def step(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """See `generation.Slots.step`."""
        if self._cache.length == self._buffer[0].shape[2]:
            self._shift(-min(self._starts))
        return super().step(tokens)

    def _all_states(self) -> Iterator[NDArray[Any]]:
        """See `OnnxSlots._all_states`."""
        return iter(self._buffer)

    def _shift(self, columns: int) -> None:
        """Move all rows to the right, or to the left if `columns` is negative."""
        begin = min(self._starts, default=self._cache.length)
        end = self._cache.length
        for states in self._buffer:
            used = states[: len(self._starts)]
            used[:, :, begin + columns : end + columns] = used[:, :, begin:end]
        self._starts = [start + columns for start in self._starts]
        self._cache.length += columns

    def _join(self, cache: Cache, lengths: Sequence[int]) -> None:
        """See `OnnxSlots._join`."""
        if max(lengths) > self._cache.length:
            self._shift(max(lengths) - self._cache.length)
        end = self._cache.length
        for states, value in zip(self._buffer, cache.past, strict=True):
            _write(states[len(self._starts) :], value.numpy(), lengths, end)
        self._starts += [end - length for length in lengths]
        self._use()

    def _leave(self, moves: Sequence[tuple[int, int]]) -> None:
        """See `OnnxSlots._leave`."""
        for states in self._buffer:
            for source, target in moves:
                columns = slice(self._starts[target], self._cache.length)
                states[target, :, columns] = states[source, :, columns]
        self._use()

    def _use(self) -> None:
        """Make the rows that have a start the cache; they share the buffer's memory."""
        rows = len(self._starts)
        past = past_of(states[:rows] for states in self._buffer) if rows else []
        self._cache = Cache(past, self._cache.length if rows else 0)


def _write(
    rows: NDArray[np.floating], states: NDArray[np.floating], lengths: Sequence[int], end: int
) -> None:
    """Write the first columns of each of these states so that they end before column `end`."""
    for row, (one, length) in enumerate(zip(states, lengths, strict=True)):
        rows[row, :, end - length : end] = one[:, :length]
