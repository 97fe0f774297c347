"""What timings say, and how sure that is: no model here, only seconds.

A machine's speed wanders, so that two models are timed in turn, the order changing every round, and compared round by round: what
slows one of a pair slows the other too. The ratio is the median over the rounds, and its interval goes from one of the ordered
ratios to another (a distribution-free interval for a median: Conover 1999, Practical Nonparametric Statistics, section 3.2), so
that no outlier, and no assumption about the noise, moves it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = [
    "NOISY",
    "Comparison",
    "compare",
    "median_interval",
    "percentile",
    "settled",
    "variation",
]

NOISY = 0.10
"""Coefficient of variation from which a figure is flagged: its rounds differ by more than what people mean to measure."""
WINDOW = 3
STEADY = 0.05
CONFIDENCE = 0.99
"""Of the interval of a ratio: 1 in 100 comparisons of a model with itself would be beyond it, were there no margin."""
MARGIN = 0.02
"""Ratios this near to 1 are called alike: less is not worth a decision, and a change of code layout makes as much."""


def settled(seconds: Sequence[float]) -> bool:
    """Whether warming up is over: the last rounds are as fast as those before them, within 5 %."""
    if len(seconds) < 2 * WINDOW:
        return False
    before, now = (
        statistics.median(part) for part in (seconds[-2 * WINDOW : -WINDOW], seconds[-WINDOW:])
    )
    return abs(now - before) <= STEADY * before


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which a share of the values lies, the nearest one."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]


def variation(values: Sequence[float]) -> float:
    """The coefficient of variation: standard deviation by mean."""
    return statistics.pstdev(values) / statistics.mean(values)


def median_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Bounds of the median that hold with at least this confidence, infinite where there are too few values for it."""
    ordered, tail, outside = sorted(values), 0.0, 0
    while outside < len(ordered) // 2:
        tail += math.comb(len(ordered), outside) / 2 ** len(ordered)
        if tail > (1 - confidence) / 2:
            break
        outside += 1
    return (ordered[outside - 1], ordered[-outside]) if outside else (-math.inf, math.inf)


@dataclass(frozen=True)
class Comparison:
    """Seconds of one side by seconds of the other, round by round."""

    ratio: float
    """The median: above 1, the first side takes longer."""
    low: float
    high: float
    rounds: int
    verdict: Literal["slower", "faster", "alike", "unclear"]
    """`slower` and `faster`: the whole interval is beyond the margin; `alike`: all of it is within twice the margin."""


def compare(
    seconds: Sequence[float],
    other: Sequence[float],
    confidence: float = CONFIDENCE,
    margin: float = MARGIN,
) -> Comparison:
    """Compare two sides that were timed in the same rounds.

    Raises:
        ValueError: the sides have not as many rounds.
    """
    ratios = [a / b for a, b in zip(seconds, other, strict=True)]
    low, high = median_interval(ratios, confidence)
    if low > 1 + margin:
        verdict = "slower"
    elif high < 1 / (1 + margin):
        verdict = "faster"
    else:
        verdict = "alike" if low >= 1 - 2 * margin and high <= 1 + 2 * margin else "unclear"
    return Comparison(statistics.median(ratios), low, high, len(ratios), verdict)
