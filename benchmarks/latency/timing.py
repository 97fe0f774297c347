"""Statistics of timings: percentiles, variation, and whether one model is faster than another.

The speed of a machine changes over time. So two models are measured in turns, and compared round
by round: what slows down one of a pair also slows down the other. The result is the median of the
ratios. Its interval is distribution-free: its bounds are two of the sorted ratios (Conover 1999,
Practical Nonparametric Statistics, section 3.2). So it needs no assumption about the noise, and
outliers do not move it.
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
"""Coefficient of variation from which a metric is marked as noisy in the result."""
WINDOW = 3
STEADY = 0.05
CONFIDENCE = 0.99
"""Confidence of a ratio's interval: without the margin, 1 in 100 comparisons of a model with
itself would find a difference."""
MARGIN = 0.02
"""Smaller differences from 1 count as alike. Merely moving code in memory can change as much."""


def settled(seconds: Sequence[float]) -> bool:
    """Whether warm-up is over: the last rounds are as fast as those before them, within 5 %."""
    if len(seconds) < 2 * WINDOW:
        return False
    before = statistics.median(seconds[-2 * WINDOW : -WINDOW])
    now = statistics.median(seconds[-WINDOW:])
    return abs(now - before) <= STEADY * before


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which this share (0 to 1) of the values lies; always one of the values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]


def variation(values: Sequence[float]) -> float:
    """The coefficient of variation: standard deviation divided by mean."""
    return statistics.pstdev(values) / statistics.mean(values)


def median_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Bounds of the median at this confidence; infinite if there are too few values."""
    ordered = sorted(values)
    tail = 0.0
    outside = 0
    while outside < len(ordered) // 2:
        tail += math.comb(len(ordered), outside) / 2 ** len(ordered)
        if tail > (1 - confidence) / 2:
            break
        outside += 1
    return (ordered[outside - 1], ordered[-outside]) if outside else (-math.inf, math.inf)


@dataclass(frozen=True)
class Comparison:
    """The seconds of one side divided by the seconds of the other, round by round."""

    ratio: float
    """The median of the ratios. Above 1: the first side takes longer."""
    low: float
    high: float
    rounds: int
    verdict: Literal["slower", "faster", "alike", "unclear"]
    """`slower` or `faster`: the whole interval is beyond the margin. `alike`: the whole interval
    is within twice the margin. `unclear`: neither."""


def compare(
    seconds: Sequence[float],
    other: Sequence[float],
    confidence: float = CONFIDENCE,
    margin: float = MARGIN,
) -> Comparison:
    """Compare two sides that were timed in the same rounds.

    Raises:
        ValueError: the sides have different numbers of rounds.
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
