"""Compare what a device computes with what the checkpoint computed: pure functions of numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..runtimes.interface import Scored

__all__ = ["Agreement", "agreement", "least_kl", "same_beginning"]

TINY = 1e-12


@dataclass(frozen=True)
class Agreement:
    """How well a device follows one answer of the checkpoint.

    Attributes:
        hits: for each position, whether both find the same token most likely.
        kl: for each position, a lower bound of KL(checkpoint || device) in nats; see `least_kl`.
    """

    hits: tuple[bool, ...]
    kl: tuple[float, ...]


def agreement(expected: Scored, found: Scored) -> Agreement:
    """Compare the most likely tokens of both sides at the positions of one text."""
    rows = list(zip(expected.ids, expected.logprobs, found.ids, found.logprobs, strict=True))
    hits = tuple(bool(ids) and bool(own) and ids[0] == own[0] for ids, _, own, _ in rows)
    kl = tuple(
        least_kl(dict(zip(ids, logs, strict=True)), dict(zip(own, own_logs, strict=True)))
        for ids, logs, own, own_logs in rows
    )
    return Agreement(hits, kl)


def least_kl(expected: dict[int, float], found: dict[int, float]) -> float:
    """A lower bound of KL(P || Q) from the most likely tokens of both.

    All tokens are put into groups: each token that both lists have is one, the tokens that only
    P's list has are one, and all others are one. The KL of grouped distributions is never larger
    than that of the whole ones (the data processing inequality). Q of the second group is not
    known; of all possible values the one with the smallest KL is taken.

    Args:
        expected: token -> log-probability under P, of its most likely tokens.
        found: the same under Q.
    """
    both = [(math.exp(expected[i]), math.exp(found[i])) for i in expected if i in found]
    p_only = sum(math.exp(log) for i, log in expected.items() if i not in found)
    p_rest = max(1.0 - p_only - sum(p for p, _ in both), 0.0)
    q_left = max(1.0 - sum(q for _, q in both), 0.0)
    # No token outside of Q's list is more likely than the last one in it.
    count = sum(1 for i in expected if i not in found)
    most = count * math.exp(min(found.values())) if found else q_left
    share = p_only / (p_only + p_rest) if p_only + p_rest > 0 else 0.0
    q_only = min(q_left * share, most)
    groups = [*both, (p_only, q_only), (p_rest, q_left - q_only)]
    return max(sum(_term(p, q) for p, q in groups), 0.0)


def _term(p: float, q: float) -> float:
    return p * math.log(p / max(q, TINY)) if p > TINY else 0.0


def same_beginning(expected: Sequence[int], found: Sequence[int]) -> int:
    """Number of tokens that are equal before the first one that differs."""
    pairs = zip(expected, found, strict=False)
    return next(
        (at for at, (one, other) in enumerate(pairs) if one != other),
        min(len(expected), len(found)),
    )
