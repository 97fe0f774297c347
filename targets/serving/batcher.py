"""Continuous batching: sequences join and leave a running batch between two steps, so that no request waits for another one's end.

One thread owns the decoder. New prompts are prefilled together, padded on the left, and their caches joined to the running ones; rows that
ended are dropped. A cache is [rows, heads, length, head_dim], every row padded on the left to the longest, with a mask that says
what is padding; so that a row's result does not depend on its neighbours.
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
from ...export.onnx.sampling import Sampling, chosen

__all__ = ["Batcher", "Full", "Generation"]

Mask = NDArray[np.int64]
DROP_SHARE = 0.25
"""Dropping rows copies the cache, so it waits until this share of the batch has ended, or somebody waits for the place."""


class Full(EdgewrightError):
    """As many requests wait as may wait."""


@dataclass
class Generation:
    """One sequence: its prompt, its limits, and where its tokens go.

    Attributes:
        ids: tokens of the prompt.
        max_tokens: most tokens to add.
        eos_ids: tokens that end it; they are not emitted.
        sampling: how tokens are chosen.
        emit: called in the batcher's thread with each new token, and at the end with `stop` or `length`, or with an exception.
        cancelled: set by whoever is not interested any more.
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
    """The batch between two steps: a row for each generation, None where one has ended and its row is not dropped yet."""

    rows: list[Generation | None]
    mask: Mask
    past: Past
    last: Mask

    @property
    def alive(self) -> int:
        """Rows that still generate."""
        return sum(row is not None for row in self.rows)


class Batcher:
    """Runs generations together on one decoder.

    Args:
        decoder: the artifact.
        max_batch: most sequences at a time.
        max_waiting: most sequences that wait for a place.

    Attributes:
        steps, tokens: how many decoding steps ran, and how many tokens they made.
    """

    def __init__(self, decoder: OnnxDecoder, max_batch: int = 16, max_waiting: int = 256) -> None:
        self._decoder, self._max_batch = decoder, max_batch
        self._waiting: queue.Queue[Generation | None] = queue.Queue(max_waiting)
        self._running: _Running | None = None
        self.steps = self.tokens = 0
        self._thread = threading.Thread(target=self._loop, name="batcher", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Sequences that wait for a place."""
        return self._waiting.qsize()

    @property
    def running(self) -> int:
        """Sequences that are being generated."""
        running = self._running
        return running.alive if running else 0

    def submit(self, generation: Generation) -> None:
        """Queue a sequence.

        Raises:
            Full: too many wait.
        """
        try:
            self._waiting.put_nowait(generation)
        except queue.Full as error:
            raise Full("too many requests are waiting", "try again later") from error

    def close(self) -> None:
        """End the thread; what is running or waiting gets no more tokens."""
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
        """The sequences that join now; waits for one where nothing runs. None: the batcher is closed."""
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
        """Prefill new sequences and put them below the running ones."""
        if not fresh:
            return
        length = max(len(row.ids) for row in fresh)
        ids, mask = (
            np.zeros((len(fresh), length), np.int64),
            np.zeros((len(fresh), length), np.int64),
        )
        for i, row in enumerate(fresh):
            ids[i, length - len(row.ids) :], mask[i, length - len(row.ids) :] = row.ids, 1
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
        """One token for every running sequence."""
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
        """Drop what has ended, if it is worth the copy."""
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
        """The batch without the rows that have ended, and without the padding that only they needed."""
        keep = [i for i, row in enumerate(running.rows) if row is not None]
        mask = running.mask[keep]
        start = int(mask.any(0).argmax()) if keep else 0
        past = past_of(value.numpy()[keep][:, :, start:] for value in running.past)
        return _Running([running.rows[i] for i in keep], mask[:, start:], past, running.last[keep])

    def _chosen(self, rows: Sequence[Generation | None], logits: NDArray[np.float32]) -> Mask:
        """The next token of each row, int64 [rows, 1]."""
        samplings, randoms = (
            [row and row.sampling for row in rows],
            [row and row.random for row in rows],
        )
        return chosen(logits, samplings, randoms)[:, None]

    def _deliver(self, running: _Running) -> None:
        """Hand out the tokens that were just chosen, and end the sequences that are through."""
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
    """Two batches as one, the shorter one padded on the left."""
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
