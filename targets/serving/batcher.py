"""Continuous batching: sequences join and leave the running batch between two decoding steps.

So a short request does not wait for a long one that started earlier.

One thread uses the decoder. It prefills new prompts together, joins their KV caches to those of
the running sequences, and drops the rows of sequences that have ended. A cache is [rows, heads,
length, head_dim]. Each row is padded on the left to the longest, and a mask marks the padding. So
the result of a row does not depend on the other rows.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ...errors import EdgewrightError
from ...export.onnx.runtime import OnnxDecoder, Past, past_of
from ...export.onnx.sampling import Sampling, next_tokens

__all__ = ["Batcher", "Generation", "QueueFull"]

Mask = NDArray[np.int64]
DROP_SHARE = 0.25
"""Dropping rows copies the cache. It waits until this share of the batch has ended, or until a
request is waiting for a place."""


class QueueFull(EdgewrightError):
    """The maximum number of requests is already waiting."""


@dataclass
class Generation:
    """One sequence: its prompt, its limits, and the receiver of its tokens.

    Attributes:
        ids: tokens of the prompt.
        max_tokens: the most tokens to generate.
        eos_ids: tokens that end the sequence; they are not emitted.
        sampling: how the next token is chosen.
        emit: called in the batcher's thread with each new token, and at the end with `stop`,
            `length`, or an exception.
        cancelled: set by the receiver to cancel the sequence.
        made: number of tokens generated so far.
        random: random numbers for sampling, seeded by `sampling`.
    """

    ids: Sequence[int]
    max_tokens: int
    eos_ids: frozenset[int]
    sampling: Sampling
    emit: Callable[[int | str | BaseException], None]
    cancelled: threading.Event = field(default_factory=threading.Event)
    made: int = 0
    random: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.random = self.sampling.random()


@dataclass
class _Running:
    """The batch between two steps.

    Attributes:
        rows: the sequence of each row; None if it has ended and its row was not dropped yet.
        mask: int64 [rows, length]; 0 marks padding.
        past: the KV cache.
        last: int64 [rows, 1], the latest token of each row.
    """

    rows: list[Generation | None]
    mask: Mask
    past: Past
    last: Mask

    @property
    def alive(self) -> int:
        """Number of rows that are still being generated."""
        return sum(row is not None for row in self.rows)


class Batcher:
    """Generates several sequences together on one decoder.

    Args:
        decoder: the artifact's decoder.
        max_batch: the most sequences that are generated at the same time.
        max_waiting: the most sequences that wait for a place.

    Attributes:
        steps: number of decoding steps so far.
        tokens: number of tokens generated so far.
    """

    def __init__(self, decoder: OnnxDecoder, max_batch: int = 16, max_waiting: int = 256) -> None:
        self._decoder = decoder
        self._max_batch = max_batch
        self._waiting: queue.Queue[Generation | None] = queue.Queue(max_waiting)
        self._running: _Running | None = None
        self.steps = 0
        self.tokens = 0
        self._thread = threading.Thread(target=self._loop, name="batcher", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Number of sequences that wait for a place."""
        return self._waiting.qsize()

    @property
    def running(self) -> int:
        """Number of sequences that are being generated."""
        running = self._running
        return running.alive if running else 0

    def submit(self, generation: Generation) -> None:
        """Add a sequence to the queue.

        Raises:
            QueueFull: too many sequences are waiting.
        """
        try:
            self._waiting.put_nowait(generation)
        except queue.Full as error:
            raise QueueFull("too many requests are waiting", "try again later") from error

    def close(self) -> None:
        """Stop the thread. Sequences that are running or waiting get no more tokens."""
        self._waiting.put(None)
        self._thread.join()

    def _loop(self) -> None:
        while True:
            fresh = self._admitted()
            if fresh is None:
                return
            try:
                self._join(fresh)
                self._step()
            except Exception as error:
                self._fail(error, fresh)

    def _admitted(self) -> list[Generation] | None:
        """The sequences that join the batch now, or None if the batcher was closed.

        If nothing is running, this waits for a sequence.
        """
        fresh: list[Generation] = []
        idle = self._running is None
        while len(fresh) + self.running < self._max_batch:
            try:
                found = self._waiting.get(block=idle and not fresh)
            except queue.Empty:
                break
            if found is None:
                return None
            if not found.cancelled.is_set():
                fresh.append(found)
        return fresh

    def _fail(self, error: Exception, fresh: Sequence[Generation]) -> None:
        rows = [*(self._running.rows if self._running else []), *fresh]
        self._running = None
        for row in {id(row): row for row in rows if row}.values():
            row.emit(error)

    def _join(self, fresh: list[Generation]) -> None:
        """Prefill new sequences and append them to the running batch."""
        if not fresh:
            return
        length = max(len(row.ids) for row in fresh)
        ids = np.zeros((len(fresh), length), np.int64)
        mask = np.zeros((len(fresh), length), np.int64)
        for i, row in enumerate(fresh):
            ids[i, length - len(row.ids) :] = row.ids
            mask[i, length - len(row.ids) :] = 1
        logits, past = self._decoder.forward(ids, mask)
        new = _Running(list(fresh), mask, past, self._chosen(fresh, logits[:, -1]))
        self._deliver(new)
        self._running = (
            new
            if self._running is None
            else _joined(self._dropped(self._running), self._dropped(new))
        )
        self._settle()

    def _step(self) -> None:
        """Generate one token for each running sequence."""
        running = self._running
        if running is None:
            return
        running.mask = np.concatenate([running.mask, np.ones((len(running.rows), 1), np.int64)], 1)
        logits, running.past = self._decoder.forward(running.last, running.mask, past=running.past)
        running.last = self._chosen(running.rows, logits[:, -1])
        self.steps += 1
        self._deliver(running)
        self._settle()

    def _settle(self) -> None:
        """Drop rows that have ended, if it is worth the copy."""
        running = self._running
        if running is None:
            return
        ended = len(running.rows) - running.alive
        if ended == len(running.rows):
            self._running = None
        elif ended and (ended >= DROP_SHARE * len(running.rows) or self.waiting):
            self._running = self._dropped(running)

    @staticmethod
    def _dropped(running: _Running) -> _Running:
        """The batch without ended rows, and without padding that only those rows needed."""
        keep = [i for i, row in enumerate(running.rows) if row is not None]
        mask = running.mask[keep]
        start = int(mask.any(0).argmax()) if keep else 0
        past = past_of(value.numpy()[keep][:, :, start:] for value in running.past)
        return _Running([running.rows[i] for i in keep], mask[:, start:], past, running.last[keep])

    def _chosen(self, rows: Sequence[Generation | None], logits: NDArray[np.float32]) -> Mask:
        """The next token of each row, int64 [rows, 1]."""
        samplings = [row and row.sampling for row in rows]
        randoms = [row and row.random for row in rows]
        return next_tokens(logits, samplings, randoms)[:, None]

    def _deliver(self, running: _Running) -> None:
        """Emit the latest tokens, and end the sequences that are complete."""
        for i, row in enumerate(running.rows):
            if row is None:
                continue
            token = int(running.last[i, 0])
            if row.cancelled.is_set() or token in row.eos_ids:
                running.rows[i] = None
                row.emit("stop")
                continue
            row.made += 1
            self.tokens += 1
            row.emit(token)
            if row.made >= row.max_tokens:
                running.rows[i] = None
                row.emit("length")


def _joined(first: _Running, second: _Running) -> _Running:
    """Join two batches into one. The shorter one is padded on the left."""
    if not second.rows or not first.rows:
        return first if first.rows else second
    length = max(first.mask.shape[1], second.mask.shape[1])

    def padded(array: NDArray[np.generic], axis: int) -> NDArray[np.generic]:
        widths = [(0, 0)] * array.ndim
        widths[axis] = (length - array.shape[axis], 0)
        return np.pad(array, widths)

    pairs = zip(first.past, second.past, strict=True)
    past = past_of(np.concatenate([padded(a.numpy(), 2), padded(b.numpy(), 2)]) for a, b in pairs)
    mask = np.concatenate([padded(first.mask, 1), padded(second.mask, 1)]).astype(np.int64)
    return _Running(first.rows + second.rows, mask, past, np.concatenate([first.last, second.last]))
