"""The paired bootstrap: how far a figure could be off, judged from the samples that candidate and baseline both answered.

Whole pairs (a problem with both answers, a window of text with both losses) are drawn with replacement, so that what is
hard for both sides does not count as a difference between them. The quantiles of the figure over many such draws bound it:
Efron and Tibshirani (1993), An Introduction to the Bootstrap, chapter 13; Koehn (2004), Statistical Significance Tests for
Machine Translation Evaluation, who compares two systems on one test set in this way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

__all__ = ["Array", "Interval", "bounds", "resample", "samples_needed", "share_error"]

Array = NDArray[np.float64]
CELLS = 4_000_000
"""Counts held at a time: 32 MB."""
POWER = 0.8
NORMAL = NormalDist()


@dataclass(frozen=True)
class Interval:
    """Two one-sided bounds, in the unit of the figure; the true figure is beyond either with 1 - confidence at most."""

    low: float
    high: float


def resample(columns: Array, resamples: int, seed: int) -> Array:
    """Column sums over rows drawn with replacement.

    Only the number of times that a row is drawn matters, and equal rows are one: of 1,000 problems with two answers each
    there are four kinds at most, which makes ten thousand draws a matter of milliseconds.

    Args:
        columns: float64 [samples, figures], a row for each pair.
        resamples: how many times as many rows as there are get drawn.
        seed: of the draws.

    Returns:
        float64 [resamples, figures].

    Raises:
        ValueError: there is no row.
    """
    count = len(columns)
    if not count:
        raise ValueError("no samples to draw from")
    kinds, times = np.unique(columns, axis=0, return_counts=True)
    generator = np.random.default_rng(seed)
    at_once = max(1, CELLS // len(kinds))
    sizes = [min(at_once, resamples - begin) for begin in range(0, resamples, at_once)]
    return np.concatenate(
        [generator.multinomial(count, times / count, size=size) @ kinds for size in sizes]
    )


def bounds(draws: Array, samples: int, confidence: float) -> Interval:
    """The interval between two quantiles of a figure's draws.

    Of two neighbouring draws the outer one is taken, and the tails are those of Student's t instead of the normal (the
    expanded percentile interval: Hesterberg 2015, What Teachers Should Know About the Bootstrap, section 5.3), for plain
    percentiles are too narrow where samples are few.

    Args:
        draws: float64 [resamples]; infinities are allowed.
        samples: how many pairs each draw had, at least 2.
        confidence: of each bound by itself, above 0.5; 0.95 makes what a two-sided view calls a 90 % interval.

    Raises:
        ValueError: fewer than 2 samples, or a confidence that is not between 0.5 and 1.
    """
    if samples < 2 or not 0.5 < confidence < 1:
        raise ValueError(
            f"{samples} samples at confidence {confidence}: needs 2 samples and a confidence between 0.5 and 1"
        )
    ordered = np.sort(draws)
    outside = int(_tail(samples, confidence) * len(ordered))
    return Interval(float(ordered[outside]), float(ordered[-1 - outside]))


def _tail(samples: int, confidence: float) -> float:
    """The share of draws beyond each bound; Student's quantile by Abramowitz and Stegun 26.7.5, three terms."""
    z, free = NORMAL.inv_cdf(confidence), samples - 1
    student = z + (z**3 + z) / (4 * free) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)
    return NORMAL.cdf(-student * math.sqrt(samples / free))


def samples_needed(
    estimate: float, limit: float, interval: Interval, samples: int, confidence: float
) -> int | None:
    """About how many samples would decide, four times in five, if the estimate were the truth.

    An interval narrows with the root of the number of samples; None where no number helps, with the estimate on the limit.

    Args:
        estimate: the figure on all samples.
        limit: what it is held against.
        interval: the bounds that did not decide.
        samples: how many there are now.
        confidence: that of the bounds.
    """
    half, gap = (
        (estimate - interval.low, estimate - limit)
        if limit < estimate
        else (interval.high - estimate, limit - estimate)
    )
    if not gap or not math.isfinite(half / gap):
        return None
    z = NORMAL.inv_cdf(confidence)
    return max(
        samples + 1, math.ceil(samples * (half / gap * (z + NORMAL.inv_cdf(POWER)) / z) ** 2)
    )


def share_error(share: float, count: int) -> float:
    """The standard error of a share of `count` samples."""
    return math.sqrt(share * (1 - share) / max(count - 1, 1))
