"""What keys and values span in calibration text, and what it costs to round them.

Each channel of a key/value head has a center and a symmetric scale, from the least and the largest
value. Keys are rounded after the rotary embedding. Some models have channels that are far from zero
at every position, and a center takes that away: softmax does not change when one vector is
subtracted from all keys (SageAttention, arXiv:2410.02367, section 4.2), and attention gives a
vector back that was subtracted from all values. So neither center costs accuracy.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...console import progress
from ...errors import ParityFailed, UsageError
from ...generation.memory import chunk_tokens
from ..options import CACHE_TOKENS
from .parity import log_softmax
from .runtime import Cache, OnnxDecoder

__all__ = ["ChannelRange", "channel_ranges", "rounding_loss"]

TOP = 127
"""The largest integer."""
HEADROOM = 1.25
"""Room above the largest value of calibration. Without it, clipped values cost six times the KL
(perf/RESULTS.md)."""
SMALLEST = 1e-6
"""Least largest value of a channel, so that a scale is never zero."""
PROMPT = 16
"""Tokens at a time when the loss is measured: later ones read the rounded cache of earlier ones."""
MOST_KL = 1e-2
"""Largest loss of an artifact that is kept, in nats."""


@dataclass(frozen=True)
class ChannelRange:
    """What the keys or the values of a layer span in calibration text.

    Attributes:
        low, high: the least and the largest value of each channel, float32 [kv_heads * head_dim].
        movable: whether a center may be subtracted. Scores that go through a softcap change when
            keys are moved, so such keys keep their place.
    """

    low: NDArray[np.float32]
    high: NDArray[np.float32]
    movable: bool = True

    @property
    def center(self) -> NDArray[np.float32]:
        """The middle of each channel; zeros for those that keep their place."""
        if not self.movable:
            return np.zeros_like(self.low)
        return (self.low + self.high) * np.float32(0.5)

    @property
    def scale(self) -> NDArray[np.float32]:
        """The step of each channel after the center was subtracted."""
        largest = np.maximum(self.high - self.center, self.center - self.low) * HEADROOM
        return (np.maximum(largest, SMALLEST) / TOP).astype(np.float32)


def channel_ranges(
    decoder: OnnxDecoder, rows: Sequence[Sequence[int]], fixed: Collection[str] = ()
) -> dict[str, ChannelRange]:
    """Measure what keys and values span.

    Args:
        decoder: a decoder with a cache in floating point.
        rows: token ids; each is a text of its own. At most `CACHE_TOKENS` are read.
        fixed: names of the cache inputs that keep their place.

    Returns:
        By name of the cache input.

    Raises:
        UsageError: there is no row.
    """
    if not rows:
        raise UsageError("a cache in 8 bits needs calibration text", "give --calibration SOURCE")
    widths = [one.shape[1] * one.shape[3] for one in decoder.zero_states(1, 1)]
    lows = [np.full(width, np.inf, np.float32) for width in widths]
    highs = [np.full(width, -np.inf, np.float32) for width in widths]
    read = 0
    with progress("measuring keys and values", CACHE_TOKENS) as bar:
        for row in rows:
            used = row[: CACHE_TOKENS - read]
            if not used:
                break
            for low, high, states in zip(lows, highs, _states_of(decoder, used), strict=True):
                np.minimum(low, states.min((0, 2)).reshape(-1), out=low)
                np.maximum(high, states.max((0, 2)).reshape(-1), out=high)
            read += len(used)
            bar.advance(len(used))
    return {
        name: ChannelRange(low, high, name not in fixed)
        for name, low, high in zip(decoder.past_names, lows, highs, strict=True)
    }


def _states_of(decoder: OnnxDecoder, row: Sequence[int]) -> Iterator[NDArray[np.float32]]:
    """Keys and values of a text, each [1, kv_heads, positions, head_dim]."""
    cache = decoder.open_cache(1, len(row))
    for _ in _chunks(
        decoder, row, cache, chunk_tokens(decoder.vocabulary, not decoder.last_logits)
    ):
        pass
    for value in cache.past:
        yield value.numpy()[:, :, : cache.length].astype(np.float32)


def _chunks(
    decoder: OnnxDecoder, row: Sequence[int], cache: Cache, chunk: int
) -> Iterator[NDArray[np.float32]]:
    """Logits of a text, some tokens at a time, [1, tokens or 1, vocabulary]."""
    for begin in range(0, len(row), chunk):
        ids = np.array([row[begin : begin + chunk]], np.int64)
        yield decoder.step(ids, np.ones((1, begin + ids.shape[1]), np.int64), cache)


def rounding_loss(exact: OnnxDecoder, rounded: OnnxDecoder, rows: Sequence[Sequence[int]]) -> float:
    """Mean KL(exact || rounded) over the positions of texts, in nats.

    Args:
        exact: the decoder with a cache in floating point.
        rounded: the same with a cache in 8 bits.
        rows: token ids; each is a text of its own.

    Raises:
        ParityFailed: it is above `MOST_KL`.
    """
    total = 0.0
    positions = 0
    for row in rows:
        caches = exact.open_cache(1, len(row)), rounded.open_cache(1, len(row))
        pairs = zip(
            _chunks(exact, row, caches[0], PROMPT),
            _chunks(rounded, row, caches[1], PROMPT),
            strict=True,
        )
        for p, q in ((log_softmax(one), log_softmax(other)) for one, other in pairs):
            total += float(np.nan_to_num((np.exp(p) * (p - q)).sum(-1), nan=np.inf).sum())
            positions += p.shape[1]
    loss = max(0.0, total / positions)
    if loss > MOST_KL:
        raise ParityFailed(
            f"keys and values in 8 bits change the model: KL {loss:.2e} (at most {MOST_KL:g})",
            "leave --kv-cache out, or give --calibration a text that is more like the prompts",
        )
    return loss
