"""Finds training that went wrong: a loss that rose at the end, on the data or on held-out rows."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from ..number_format import significant
from .ledger_view import Record, name_of, number, part

__all__ = ["held_out_of", "held_out_rise", "loss_warnings", "rise_of"]

PARTS = 10
"""A curve is cut into so many parts, and the last is compared with the lowest."""
FEWEST = 3
"""Values of a part; shorter curves are not judged."""
RISE = 1.05
"""A rise below this factor is not worth a word."""
ERRORS = 3.0
"""Standard errors that the last part must be above the lowest."""
HELD_OUT_RISE = 1.02
"""Held-out rows are the same at every measurement, so that a smaller rise counts."""


def loss_warnings(steps: Sequence[Record]) -> Iterator[tuple[str, str]]:
    """The name of each step whose loss rose, and a sentence about it."""
    for step in steps:
        details = part(step, "details")
        stages = [*part(details, "loss"), *part(details, "held_out")]
        for stage in dict.fromkeys(stages):
            for text in _stage_warnings(details, stage):
                yield name_of(step), text


def _stage_warnings(details: Record, stage: str) -> Iterator[str]:
    """What went wrong in one stage of a training.

    Args:
        details: of the step's ledger entry.
        stage: its name.
    """
    values = part(details, "loss").get(stage)
    if rise := rise_of(_finite(values)):
        yield (
            f"the training loss of stage {stage} rose again at the end, from "
            f"{significant(rise[0])} to {significant(rise[1])}: fewer steps or a smaller "
            "learning rate may give a better model"
        )
    if not_finite := _broken(values):
        yield f"the training loss of stage {stage} {not_finite}"
    if rise := held_out_rise(details, stage):
        yield (
            f"the held-out loss of stage {stage} rose from {significant(rise[0])} to "
            f"{significant(rise[1])}: it learned its data by heart; stop earlier "
            "(--early-stop), or give more data"
        )


def held_out_rise(details: Record, stage: str) -> tuple[float, float] | None:
    """The lowest and the last value of the held-out curve of a stage, if it rose."""
    losses = [loss for _, loss in held_out_of(details, stage)]
    if len(losses) < FEWEST or losses[-1] <= HELD_OUT_RISE * min(losses):
        return None
    return min(losses), losses[-1]


def held_out_of(details: Record, stage: str) -> list[tuple[float, float]]:
    """The held-out curve of a stage: steps done, and the loss after them."""
    curve = part(details, "held_out").get(stage)
    pairs = curve if isinstance(curve, list) else []
    found = [_finite(list(pair)) for pair in pairs if isinstance(pair, list | tuple)]
    return [(pair[0], pair[1]) for pair in found if len(pair) == 2]


def rise_of(values: Sequence[float]) -> tuple[float, float] | None:
    """The lowest mean of a tenth of the curve and that of its last tenth, if it rose since.

    A rise counts if it is larger than `RISE` and than what the noise of the values explains.
    """
    size = len(values) // PARTS
    if size < FEWEST:
        return None
    tenths = [
        values[start : start + size] for start in range(len(values) % PARTS, len(values), size)
    ]
    means = [statistics.fmean(tenth) for tenth in tenths]
    lowest = min(means)
    last = tenths[-1]
    # Neighbours differ by the noise alone, whatever the slope of the curve.
    noise = statistics.fmean((a - b) ** 2 for a, b in pairwise(last)) / 2
    error = math.sqrt(2 * noise / size)
    risen = means[-1] > RISE * lowest and means[-1] - lowest > ERRORS * error
    return (lowest, means[-1]) if risen else None


def _finite(values: Any) -> list[float]:
    known = [number(value) for value in values] if isinstance(values, list) else []
    return [value for value in known if value is not None and math.isfinite(value)]


def _broken(values: Any) -> str:
    """What to say about losses that are no numbers."""
    count = len(values) - len(_finite(values)) if isinstance(values, list) else 0
    return f"was no finite number in {count:,} steps" if count else ""
