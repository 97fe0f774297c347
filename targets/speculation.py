"""Speculative decoding: a small draft model proposes tokens, and the target model checks them.

A round has some passes of the draft, and one pass of the target over all proposed positions. It
yields the proposed tokens that the target agrees with, and one more of the target's own. If the
target agrees with each proposal with probability `a`, a round of `k` proposals yields
(1 - a^(k+1)) / (1 - a) tokens in the mean (Leviathan et al. 2023, section 3.1, equation 1).
"""

from __future__ import annotations

import bisect
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Round", "best_count", "break_even", "expected_tokens"]

STEPS = 1000
"""Parts of the unit interval in which an agreement is searched."""


@dataclass(frozen=True)
class Round:
    """One round of speculative decoding.

    Attributes:
        draft_seconds: of one pass of the draft.
        check_seconds: of the pass of the target over the proposed positions.
        passes: of the draft.
        tokens: that the round yields in the mean, for each sequence.
    """

    draft_seconds: float
    check_seconds: float
    passes: int
    tokens: float

    @property
    def seconds(self) -> float:
        """Of the whole round."""
        return self.passes * self.draft_seconds + self.check_seconds

    @property
    def rate(self) -> float:
        """Tokens a second of each sequence."""
        return self.tokens / self.seconds


def expected_tokens(agreement: float, proposed: int) -> float:
    """Mean tokens of a round, the target's own included.

    Args:
        agreement: probability that the target agrees with a proposed token, 0 to 1.
        proposed: tokens that the draft proposes in a round.
    """
    if agreement == 1:
        return proposed + 1.0
    return (1 - agreement ** (proposed + 1)) / (1 - agreement)


def break_even(needed: float, proposed: int) -> float | None:
    """The lowest agreement at which a round yields the needed tokens; None: there is none.

    Args:
        needed: tokens that the target alone decodes in the time of a round.
        proposed: tokens that the draft proposes in a round.
    """
    found = bisect.bisect_left(
        range(STEPS + 1), needed, key=lambda part: expected_tokens(part / STEPS, proposed)
    )
    return found / STEPS if found <= STEPS else None


def best_count(rate: Callable[[int], float], most: int) -> int:
    """The number of proposed tokens, 1 to `most`, with the highest rate; the lowest of equals."""
    return max(range(1, most + 1), key=lambda count: (rate(count), -count))
