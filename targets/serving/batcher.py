"""Continuous batching: sequences join and leave the running batch between two decoding steps.

So a short request does not wait for a long one that started earlier, and a long prompt does not
stop the running sequences: it is prefilled in passes, with a decoding step after each.

One thread uses the decoder. The rows of the batch and the memory for their caches are those of
`export.onnx.slots`.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ...export.onnx.runtime import OnnxDecoder
from ...export.onnx.slots import OnnxEngine
from ...generation.schedule import close_gaps, groups_within
from .choosing import chosen_tokens
from .counters import WorkCounters
from .guide import Wish
from .prefixes import Prefix, Prefixes
from .sequence import Generation, QueueFull, Stopped, Token

__all__ = ["Batcher"]


@dataclass
class _Prefill:
    """Sequences whose prompts are being prefilled, and the passes that remain."""

    rows: list[Generation]
    passes: Iterator[None]


class Batcher:
    """Generates several sequences together on one decoder.

    Args:
        decoder: the artifact's decoder.
        max_batch: the most sequences that are generated at the same time; fewer if their caches
            do not fit into the memory that `generation.memory` allows.
        max_waiting: the most sequences that wait for a place.
        context: the most tokens of a sequence, prompt and answer together.
        prefix_bytes: memory for the caches of sequences that have ended; see `Prefixes`.

    Attributes:
        prefixes: caches of sequences that have ended.
        steps: number of decoding steps so far.
        tokens: number of tokens generated so far.
        work: counts and times of prompts and tokens.
    """

    def __init__(
        self,
        decoder: OnnxDecoder,
        max_batch: int = 16,
        max_waiting: int = 256,
        context: int = 2048,
        prefix_bytes: int = 0,
    ) -> None:
        self._engine = OnnxEngine(decoder)
        self._context = context
        self._max_batch = self._engine.rows_for(context, max_batch)
        self._max_waiting = max_waiting
        self._slots = self._engine.slots(self._max_batch, context)
        # A cache that drops old positions cannot be cut off at the end of a prefix.
        budget = 0 if decoder.windowed else prefix_bytes
        self.prefixes = Prefixes(budget, decoder.position_bytes)
        self._waiting: deque[Generation] = deque()
        self._prefill: _Prefill | None = None
        self._rows: list[Generation] = []
        self._changed = threading.Condition()
        """Guards `_waiting` and `_closed`; notified when there is something to do."""
        self._closed = False
        self._guiding = ThreadPoolExecutor(1, "guide")
        self.steps = 0
        self.tokens = 0
        self.work = WorkCounters()
        self._thread = threading.Thread(target=self._loop, name="batcher", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Number of sequences that wait for a place."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Number of sequences that are being prefilled or generated."""
        prefill = self._prefill
        return len(self._rows) + (len(prefill.rows) if prefill else 0)

    def submit(self, *generations: Generation) -> None:
        """Add the sequences of a request to the queue: all of them or none.

        Raises:
            QueueFull: too many sequences are waiting.
            Stopped: the batcher was closed.
        """
        with self._changed:
            if self._closed:
                raise Stopped("the server is stopping", "try again later")
            # Whoever comes first may bring more than can wait, or would never be served.
            if self._waiting and len(self._waiting) + len(generations) > self._max_waiting:
                raise QueueFull("too many requests are waiting", "try again later")
            self._waiting.extend(generations)
            self._changed.notify()

    def cancel(self, generation: Generation) -> None:
        """Give up a sequence: at once if it waits, else before the next pass or step."""
        with self._changed:
            generation.cancelled.set()
            if generation in self._waiting:
                self._waiting.remove(generation)

    def close(self) -> None:
        """Stop the thread. Sequences that are running or waiting end with `Stopped`."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()
        self._guiding.shutdown()

    def _loop(self) -> None:
        while self._await_work():
            try:
                self._admit()
                self._prefill_pass()
            except Exception as error:  # whatever ONNX Runtime raises ends these sequences alone
                failed = self._prefill
                self._prefill = None
                _emit(failed.rows if failed else [], error)
            try:
                self._step()
            except Exception as error:
                self._end_all(error)
        with self._changed:
            waiting = list(self._waiting)
            self._waiting.clear()
        prefilled = self._prefill.rows if self._prefill else []
        _emit([*self._rows, *prefilled, *waiting], Stopped("the server is stopping"))

    def _await_work(self) -> bool:
        """Wait until there is a sequence; returns False if the batcher was closed."""
        with self._changed:
            while not (self._closed or self._waiting or self._prefill or self._rows):
                self._changed.wait()
            return not self._closed

    def _end_all(self, error: Exception) -> None:
        """End the running rows, and continue with an empty cache."""
        rows = self._rows
        self._rows = []
        self._slots = self._engine.slots(self._max_batch, self._context)
        self._prefill = self._prefill and self._prefilled(self._prefill.rows)
        _emit(rows, error)

    def _admit(self) -> None:
        """Begin the prefill of waiting sequences that one pass has room for, or of a long one."""
        with self._changed:
            free = self._max_batch - len(self._rows)
            if self._prefill or not free or not self._waiting:
                return
            first = self._waiting[0]
            prefix = self._prefix(first)
            rows = [first]
            if not prefix and not self._leads(first):
                others = list(self._waiting)[1:free]
                rows += [row for row in others if not (self._prefix(row) or self._leads(row))]
            groups = groups_within([row.ids for row in rows], self._slots.most_tokens)
            rows = rows[: len(next(groups))]
            for row in rows:
                self._waiting.remove(row)
        if prefix:
            first.cached = prefix.length
            passes = self._slots.continuing(first.ids[:-1], prefix.states)
            self._prefill = _Prefill([first], passes)
        else:
            self._prefill = self._prefilled(rows)

    def _prefix(self, row: Generation) -> Prefix | None:
        """What is known of a prompt."""
        return self.prefixes.find(row.ids[:-1], row.owner)

    def _leads(self, row: Generation) -> bool:
        """Whether other sequences will start from the prompt of this one."""
        return row.siblings and self.prefixes.may_keep(len(row.ids) - 1)

    def _prefilled(self, rows: list[Generation]) -> _Prefill:
        # All tokens of a prompt but the last: the first step takes in the last one.
        for row in rows:
            row.cached = 0
        return _Prefill(rows, self._slots.appending([row.ids[:-1] for row in rows]))

    def _prefill_pass(self) -> None:
        """One pass of a prefill. After the last one, its sequences are rows of the batch."""
        prefill = self._prefill
        if prefill is None:
            return
        if all(row.cancelled.is_set() for row in prefill.rows):
            self._prefill = None
            _emit(prefill.rows, "stop")
            return
        try:
            next(prefill.passes)
        except StopIteration:
            self._prefill = None
            self._rows += prefill.rows
            for i, row in enumerate(self._rows):
                if row in prefill.rows and self._leads(row):
                    self._keep(i)

    def _step(self) -> None:
        """Generate one token for each running sequence."""
        self._end({i: "stop" for i, row in enumerate(self._rows) if row.cancelled.is_set()})
        if not self._rows:
            return
        # Masks of grammars are computed in another thread while the decoder works.
        asked = [row.guide and self._guiding.submit(row.guide.wish) for row in self._rows]
        logits = self._slots.step([row.last for row in self._rows])
        self.steps += 1
        ended: dict[int, str | BaseException] = {}
        wishes: list[Wish] = []
        for i, future in enumerate(asked):
            try:
                wishes.append(future.result() if future else None)
            except Exception as error:  # a grammar that fails ends its sequence alone
                wishes.append(None)
                ended[i] = error
        for i, token in enumerate(chosen_tokens(logits, self._rows, wishes)):
            if i not in ended and (reason := self._advance(self._rows[i], token)):
                ended[i] = reason
        self._end(ended)

    def _advance(self, row: Generation, token: Token) -> str | BaseException | None:
        """Extend a sequence by a token; returns why it ends, or None."""
        if token.id in row.eos_ids:
            return "stop"
        row.answer.append(token.id)
        self.tokens += 1
        self.work.wrote(row)
        row.emit(token)
        try:
            complete = row.guide is not None and row.guide.take(token.id)
        except Exception as error:  # as above
            return error
        if complete:
            return "stop"
        return "length" if row.made >= row.max_tokens else None

    def _end(self, ended: Mapping[int, str | BaseException]) -> None:
        """Remove rows from the batch, each for a reason."""
        if not ended:
            return
        for i, reason in ended.items():
            self._keep(i)
            self._rows[i].emit(reason)
        moves = close_gaps(self._rows, ended)
        self._slots.retire(moves, len(self._rows))

    def _keep(self, row: int) -> None:
        """Keep the cache of a row for prompts that begin like it."""
        generation = self._rows[row]
        count = self._slots.positions(row)
        tokens = [*generation.ids, *generation.answer][:count]
        self.prefixes.keep(tokens, generation.owner, lambda: self._slots.states(row))


def _emit(rows: Sequence[Generation], item: str | BaseException) -> None:
    for row in rows:
        row.emit(item)
