"""Answer many prompts with continuous batching, in torch or in ONNX Runtime.

An engine holds one row of cache for each running prompt. All tokens of a prompt but the last are
prefilled into a row. The last one is the first token that the row takes part in a step with. So a
prefill needs no logits, and a step gives those of every row. Tokens that all prompts begin with
are prefilled once, and their keys and values copied into every row.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor

from ..console import Bar
from .decoding import Decoding
from .schedule import Schedule, shared_start

__all__ = ["Engine", "Pace", "Slots", "generate"]

NOTE_SECONDS = 2.0


class Slots(Protocol):
    """The caches of the running rows. A row's results do not depend on the other rows."""

    def share(self, tokens: Sequence[int]) -> None:
        """Prefill the tokens that all prompts will begin with, once, before there are rows."""
        ...

    def append(self, prompts: Sequence[Sequence[int]]) -> None:
        """Prefill prompts, which may be empty, into new last rows."""
        ...

    def step(self, tokens: Sequence[int]) -> Tensor | NDArray[Any]:
        """Extend each row by one token; returns the logits after it, float [rows, vocab]."""
        ...

    def retire(self, moves: Sequence[tuple[int, int]], count: int) -> None:
        """Copy rows `(source, target)`, and keep the first `count`."""
        ...


class Engine(Protocol):
    """A model that can answer several prompts at the same time."""

    def rows_for(self, positions: int, prompts: int) -> int:
        """How many rows of this many positions fit into memory, at most `prompts`."""
        ...

    def slots(self, rows: int, positions: int) -> Slots:
        """Room for so many rows of so many positions."""
        ...


def generate(
    engine: Engine, prompts: Sequence[Sequence[int]], decoding: Decoding, bar: Bar
) -> list[list[int]]:
    """Answer each prompt.

    Args:
        engine: the model.
        prompts: token ids; at least one in each.
        decoding: when answers end, and how tokens are chosen.
        bar: counts the answers, and shows how fast they come.

    Returns:
        The tokens of the answers in the order of the prompts, with the token that ended them.
    """
    answers: list[list[int]] = [[] for _ in prompts]
    if not prompts:
        return answers
    lengths = [len(prompt) for prompt in prompts]
    positions = max(lengths) + decoding.max_new_tokens
    rows = engine.rows_for(positions, len(prompts))
    schedule = Schedule(lengths, rows)
    slots = engine.slots(rows, positions)
    if shared := shared_start([prompt[:-1] for prompt in prompts]):
        slots.share(shared)
    pace = Pace(bar, len(prompts), decoding.max_new_tokens)
    while schedule.unfinished:
        if new := schedule.admit():
            slots.append([prompts[i][:-1] for i in new])
        running = schedule.rows
        logits = torch.as_tensor(slots.step([(answers[i] or prompts[i])[-1] for i in running]))
        steps = torch.tensor([len(answers[i]) for i in running])
        chosen = decoding.choose(logits, torch.tensor(running), steps).tolist()
        for i, token in zip(running, chosen, strict=True):
            answers[i].append(token)
        ended = {row for row, i in enumerate(running) if decoding.complete(answers[i])}
        pace.add(len(running), [len(answers[running[row]]) for row in ended])
        if decoding.answered:
            for row in sorted(ended):
                decoding.answered(running[row], answers[running[row]])
        slots.retire(schedule.retire(ended), len(schedule.rows))
    return answers


class Pace:
    """Shows how fast tokens are generated and when all will be done.

    Args:
        bar: counts the prompts that are answered.
        prompts: their number.
        longest: the most tokens of an answer.
        clock: seconds.
    """

    def __init__(
        self,
        bar: Bar,
        prompts: int,
        longest: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._bar = bar
        self._longest = longest
        self._prompts = prompts
        self._clock = clock
        self._began = clock()
        self._noted = self._began
        self._tokens = 0
        self._finished: list[int] = []

    def add(self, tokens: int, finished: Sequence[int]) -> None:
        """Count new tokens, and the lengths of the answers that they finished."""
        self._tokens += tokens
        self._finished += finished
        now = self._clock()
        if finished or now - self._noted >= NOTE_SECONDS:
            self._noted = now
            self._bar.advance(len(finished), self.note(now - self._began))

    def note(self, seconds: float) -> str:
        """The rate so far, and the time left if all other answers are as long as they may be.

        The answers that are done say little about the others: the short ones end first.
        """
        rate = self._tokens / max(seconds, 1e-9)
        most = (self._prompts - len(self._finished)) * self._longest
        left = (most - (self._tokens - sum(self._finished))) / max(rate, 1e-9)
        return f"{rate:,.0f} tokens/s, at most {left:,.0f} s left"
