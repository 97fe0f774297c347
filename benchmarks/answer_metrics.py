"""The metrics of what a version answers on a device, against the checkpoint's answers.

The default limits are for a device that computes an artifact of the same checkpoint. There, weights
are equal bit for bit, and rounding moves few tokens. See docs/deployment.md for the figures.
"""

from __future__ import annotations

from .metric import Metric, with_error
from .metric_conditions import ANSWERS

__all__ = ["ANSWER_METRICS"]

ANSWER_METRICS = (
    *with_error(
        Metric(
            "answers/top1",
            "top-1 on the device",
            "higher",
            style="share",
            conditions=ANSWERS,
            has_samples=True,
            default_limit={"min_ratio": 0.97},
        )
    ),
    Metric(
        "answers/kl",
        "KL on the device, at least",
        "lower",
        conditions=ANSWERS,
        default_limit={"max": 0.02},
    ),
    Metric(
        "answers/prefix",
        "equal beginning of answers",
        "higher",
        style="share",
        conditions=ANSWERS,
        default_limit={"min_ratio": 0.2},
    ),
    *with_error(
        Metric(
            "answers/garbage",
            "garbage answers",
            "lower",
            style="share",
            conditions=ANSWERS,
            has_samples=True,
            default_limit={"max": 0.2},
        )
    ),
)
