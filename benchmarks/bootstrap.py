"""The paired bootstrap: confidence bounds of a metric from the samples that both sides answered.

Whole pairs (a problem with both answers, a window of text with both losses) are drawn with
replacement, so that problems which are hard for both sides do not count as a difference. The
quantiles over many such draws bound the metric: Efron and Tibshirani (1993), An Introduction to the
Bootstrap, chapter 13; Koehn (2004), Statistical Significance Tests for Machine Translation
Evaluation, compares two systems on one test set in the same way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Array",
    "Interval",
    "bounds",
    "resample",
    "samples_needed",
    "share_error",
    "unanimous",
    "unanimous_needed",
]

Array = NDArray[np.float64]
COUNTS_IN_MEMORY = 4_000_000
"""Drawn counts that are held at a time: 32 MB."""
POWER = 0.8
"""`samples_needed` aims at a decision in this share of the cases."""
NORMAL = NormalDist()


@dataclass(frozen=True)
class Interval:
    """A lower and an upper bound on the true value of a metric.

    Each of them is wrong in at most 1 - confidence of all cases. At 0.95, each bound holds at 95 %
    and both together at 90 %.
    """

    low: float
    high: float


def resample(columns: Array, resamples: int, seed: int) -> Array:
    """Column sums over rows that are drawn with replacement.

    Only how often a row is drawn matters, and equal rows are counted together: 1,000 problems with
    two answers each are at most four kinds of rows, so that ten thousand draws take milliseconds.

    Args:
        columns: float64 [samples, columns], one row per pair.
        resamples: number of draws; each one draws as many rows as there are.
        seed: of the draws.

    Returns:
        float64 [resamples, columns].

    Raises:
        ValueError: there is no row.
    """
    count = len(columns)
    if not count:
        raise ValueError("no samples to draw from")
    kinds, times = np.unique(columns, axis=0, return_counts=True)
    generator = np.random.default_rng(seed)
    at_once = max(1, COUNTS_IN_MEMORY // len(kinds))
    sizes = [min(at_once, resamples - begin) for begin in range(0, resamples, at_once)]
    return np.concatenate(
        [generator.multinomial(count, times / count, size=size) @ kinds for size in sizes]
    )


def bounds(draws: Array, samples: int, confidence: float) -> Interval:
    """The interval between two quantiles of the draws.

    Plain percentiles are too narrow where samples are few. So the tails are those of Student's t
    instead of the normal (the expanded percentile interval: Hesterberg 2015, What Teachers Should
    Know About the Bootstrap, section 5.3), and of two neighbouring draws the outer one is taken.

    Args:
        draws: float64 [resamples]; infinities are allowed.
        samples: pairs in each draw, at least 2.
        confidence: of each of the two bounds, above 0.5. 0.95 gives a two-sided interval of 90 %.

    Raises:
        ValueError: fewer than 2 samples, or a confidence that is not between 0.5 and 1.
    """
    if samples < 2 or not 0.5 < confidence < 1:
        raise ValueError(
            f"{samples} samples at confidence {confidence}: needs 2 samples"
            " and a confidence between 0.5 and 1"
        )
    ordered = np.sort(draws)
    outside = int(_tail(samples, confidence) * len(ordered))
    return Interval(float(ordered[outside]), float(ordered[-1 - outside]))


def _tail(samples: int, confidence: float) -> float:
    """The share of draws beyond each bound.

    Student's quantile is computed by Abramowitz and Stegun 26.7.5, three terms.
    """
    z = NORMAL.inv_cdf(confidence)
    freedom = samples - 1
    student = z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    return NORMAL.cdf(-student * math.sqrt(samples / freedom))


def unanimous(share: float, samples: int, confidence: float) -> Interval:
    """The interval of a share where all samples agree: no draw from them differs.

    Clopper and Pearson (1934), The Use of Confidence or Fiducial Limits.

    Args:
        share: 0 or 1.
        samples: how many agree.
        confidence: of the bound that is not the share itself.
    """
    least = (1 - confidence) ** (1 / samples)
    return Interval(least, 1.0) if share else Interval(0.0, 1 - least)


def unanimous_needed(share: float, limit: float, confidence: float) -> int | None:
    """How many samples that all agree would prove that the share is within a limit."""
    most = limit if share else 1 - limit
    return math.ceil(math.log(1 - confidence) / math.log(most)) if 0 < most < 1 else None


def samples_needed(
    estimate: float, limit: float, interval: Interval, samples: int, confidence: float
) -> int | None:
    """About how many samples would decide in four of five cases, if the estimate were the truth.

    The width of an interval falls with the square root of the number of samples.

    Args:
        estimate: the value on all samples.
        limit: the limit that it is compared with.
        interval: the bounds that did not decide.
        samples: how many samples there are now.
        confidence: that of the bounds.

    Returns:
        None if no number of samples would decide, because the estimate is on the limit.
    """
    if limit < estimate:
        half_width = estimate - interval.low
        gap = estimate - limit
    else:
        half_width = interval.high - estimate
        gap = limit - estimate
    if not gap or not math.isfinite(half_width / gap):
        return None
    z = NORMAL.inv_cdf(confidence)
    factor = (half_width / gap * (z + NORMAL.inv_cdf(POWER)) / z) ** 2
    return max(samples + 1, math.ceil(samples * factor))


def share_error(share: float, count: int) -> float:
    """The standard error of a share of `count` samples."""
    return math.sqrt(share * (1 - share) / max(count - 1, 1))
