"""One sequence of the running batch: its prompt, its limits, and what it emits."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...errors import EdgewrightError
from ...export.onnx.sampling import Sampling
from .guide import Guide
from .preferences import Preferences

__all__ = ["Generation", "QueueFull", "Stopped", "Token"]


class QueueFull(EdgewrightError):
    """The maximum number of requests is already waiting."""


class Stopped(EdgewrightError):
    """The server stops before the sequence is complete."""


class Token(NamedTuple):
    """A generated token.

    Attributes:
        id: the token.
        logprob: its log probability, if that was asked for: of the model's own distribution,
            before temperature and top_p.
        others: the most likely tokens in its place, int32 [top].
        other_logprobs: their log probabilities, float32 [top].
    """

    id: int
    logprob: float | None = None
    others: NDArray[np.int32] | None = None
    other_logprobs: NDArray[np.float32] | None = None


@dataclass(eq=False)
class Generation:
    """One sequence: its prompt, its limits, and the receiver of its tokens.

    Attributes:
        ids: tokens of the prompt, at least one.
        max_tokens: the most tokens to generate.
        eos_ids: tokens that end the sequence; they are not emitted.
        sampling: how the next token is chosen.
        emit: called in the batcher's thread with each new token, and at the end with `stop`,
            `length`, or an exception.
        alternatives: give log probabilities of the tokens and of so many alternatives; None: none.
        guide: decides what may come next; None: anything.
        preferences: make tokens more or less likely.
        owner: whose it is; only the owner's sequences can start from its cache.
        siblings: whether other sequences have the same prompt.
        cancelled: set by the receiver to cancel the sequence.
        cached: number of tokens of the prompt whose keys and values were known.
        answer: the tokens generated so far.
        random: random numbers for sampling, seeded by `sampling`.
    """

    ids: Sequence[int]
    max_tokens: int
    eos_ids: frozenset[int]
    sampling: Sampling
    emit: Callable[[Token | str | BaseException], None]
    alternatives: int | None = None
    guide: Guide | None = None
    preferences: Preferences = field(default_factory=Preferences)
    owner: int = 0
    siblings: bool = False
    cancelled: threading.Event = field(default_factory=threading.Event)
    cached: int = 0
    answer: list[int] = field(default_factory=list[int])
    random: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.random = self.sampling.random()

    @property
    def made(self) -> int:
        """Number of tokens generated so far."""
        return len(self.answer)

    @property
    def last(self) -> int:
        """The latest token, which the next step takes in."""
        return (self.answer or self.ids)[-1]
