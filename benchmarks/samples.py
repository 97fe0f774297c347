"""The samples behind a metric: the answer to every problem, or the loss of every window.

Those of `accuracy/<task>` are one digit per problem, in the order of the problems:
`{"correct": "1101"}`. Those of `perplexity/<data>` are two numbers per window, in the order of the
windows: `{"nll": [...], "tokens": [...]}`, the sum of the losses in nats and the number of scored
tokens. With them the gate pairs candidate and baseline.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import UsageError
from .bootstrap import Array

__all__ = [
    "Scores",
    "checked_number",
    "problem_samples",
    "problems_hash",
    "read_scores",
    "window_samples",
]

MAX_MEAN_NLL = 700.0
"""Nats a token above which exp() overflows a float."""


def checked_number(value: Any) -> int | float:
    """The value if it is a number.

    Raises:
        ValueError: it is another value; `true` and `"0.9"` are.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r:.40} is not a number")  # noqa: TRY004 (pydantic reports it)
    return value


@dataclass(frozen=True)
class Scores:
    """The samples of one metric, float64 [samples] each; its mean is sum(total) / sum(weight)."""

    total: Array
    weight: Array
    logarithmic: bool
    """The metric is exp(mean), as a perplexity is."""

    @property
    def count(self) -> int:
        """What the metric's `/n` counts: problems, or scored tokens."""
        return int(self.weight.sum())

    def value_of(self, mean: Array) -> Array:
        """The metric's value for each mean."""
        return np.exp(np.minimum(mean, MAX_MEAN_NLL)) if self.logarithmic else mean


def problem_samples(correct: Sequence[bool]) -> dict[str, Any]:
    """The samples of an accuracy: one digit per problem."""
    return {"correct": "".join("1" if one else "0" for one in correct)}


def window_samples(windows: Sequence[tuple[float, int]]) -> dict[str, Any]:
    """The samples of a perplexity.

    Args:
        windows: sum of losses and number of scored tokens of each window. Seven digits of the sums
            are kept, as many as a float32 holds.
    """
    return {
        "nll": [float(f"{nll:.7g}") for nll, _ in windows],
        "tokens": [tokens for _, tokens in windows],
    }


def problems_hash(problems: Sequence[tuple[str, str]]) -> str:
    """A short hash of questions and expected answers: equal if two sides have the same ones."""
    return hashlib.sha256(json.dumps(problems).encode()).hexdigest()[:16]


def read_scores(measurement: Mapping[str, Any], metric: str) -> Scores | None:
    """The samples behind a metric; None if the measurement has none.

    Raises:
        UsageError: the samples are damaged, or do not give the metric's value.
    """
    kept = (measurement.get("samples") or {}).get(metric)
    if kept is None:
        return None
    where = f"`{measurement['name']}`: the samples of `{metric}`"
    try:
        scores = _parse_samples(kept)
        found = float(scores.value_of(scores.total.sum() / scores.weight.sum()))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UsageError(
            f"{where} are damaged: {error}", "measure it again with edgewright bench"
        ) from error
    value = measurement["metrics"][metric]
    if not math.isclose(found, value, rel_tol=1e-5, abs_tol=1e-9):
        raise UsageError(
            f"{where} give {found:.6g}, and the metric is {value:.6g}: one of them was altered",
            "measure it again with edgewright bench",
        )
    return scores


def _parse_samples(kept: Mapping[str, Any]) -> Scores:
    logarithmic = "nll" in kept
    if logarithmic:
        total, weight = (_numbers(kept[key]) for key in ("nll", "tokens"))
        valid = total.shape == weight.shape and np.isfinite(total).all()
        valid = valid and (weight >= 1).all() and (weight % 1 == 0).all()
    else:
        digits = np.frombuffer(kept["correct"].encode(), dtype=np.uint8)
        total = digits.astype(np.float64) - ord("0")
        weight = np.ones_like(total)
        valid = np.isin(total, (0, 1)).all()
    if not (total.size and valid):
        raise ValueError("not one number per sample")
    return Scores(total, weight, logarithmic)


def _numbers(values: Any) -> Array:
    """A list of numbers as float64; numpy would also take strings and truth values."""
    if not isinstance(values, list):
        raise TypeError("not a list of numbers")
    return np.asarray([checked_number(value) for value in values], dtype=np.float64)
