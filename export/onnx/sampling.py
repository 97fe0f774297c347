"""Choose the next token: the most likely one, or one drawn from the nucleus. Needs numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...errors import UsageError

__all__ = ["GREEDY", "Sampling", "next_tokens"]


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen: at temperature 0 the most likely one, else drawn from the nucleus.

    The nucleus is the smallest set of tokens whose probabilities add up to `top_p`.

    Raises:
        UsageError: a temperature below 0, or `top_p` outside of (0, 1], or a seed below 0.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not (0 <= self.temperature < np.inf and 0 < self.top_p <= 1 and self.seed >= 0):
            raise UsageError(
                f"temperature {self.temperature:g}, top_p {self.top_p:g}, seed {self.seed}",
                "give temperature >= 0, 0 < top_p <= 1, seed >= 0",
            )

    def random(self, row: int = 0) -> np.random.Generator:
        """The generator of one row of a batch: row r draws like a batch of one with seed + r."""
        return np.random.default_rng(self.seed + row)


GREEDY = Sampling()


def next_tokens(
    logits: NDArray[np.floating],
    samplings: Sequence[Sampling | None],
    randoms: Sequence[np.random.Generator | None],
) -> NDArray[np.int64]:
    """The next token of each row.

    Args:
        logits: [rows, vocabulary].
        samplings: one for each row; None: greedy.
        randoms: one generator for each row; a greedy row needs none.

    Returns:
        int64 [rows].
    """
    best = logits.argmax(-1).astype(np.int64)
    for row, (sampling, random) in enumerate(zip(samplings, randoms, strict=True)):
        if sampling and random and sampling.temperature > 0:
            best[row] = _draw(logits[row].astype(np.float64), sampling, random)
    return best


def _draw(logits: NDArray[np.float64], sampling: Sampling, random: np.random.Generator) -> int:
    """Draw from the nucleus (Holtzman et al. 2020, Curious Case of Neural Text Degeneration)."""
    scaled = (logits - logits.max()) / sampling.temperature
    shares = np.exp(scaled) / np.exp(scaled).sum()
    order = np.argsort(-shares, kind="stable")
    size = int(np.searchsorted(np.cumsum(shares[order]), sampling.top_p)) + 1
    nucleus = order[:size]
    return int(random.choice(nucleus, p=shares[nucleus] / shares[nucleus].sum()))
