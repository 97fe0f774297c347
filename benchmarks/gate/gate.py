"""The regression gate: compares a candidate with a baseline, under the limits of a policy.

A limit is compared with a confidence interval, not with a single number. Both ends of the interval
are one-sided bounds at the policy's confidence. At 0.95 each bound holds at 95 %, both together at
90 %:

- fail: the whole interval is on the wrong side of the limit. A candidate exactly at its limit
  fails 1 time in 20 (at 0.95).
- pass: the whole interval is on the right side of the limit, or on it.
- inconclusive: the limit is inside the interval. The check then says about how many samples would
  decide it.

The gate fails if one check fails, and passes if all checks pass. The policy decides what an
inconclusive check does to the exit code. By default it is a warning, because people switch off a
job that fails for lack of samples; `inconclusive: fail` is for a release that has to prove itself.
The confidence is that of one check: ten limits at 0.95 are ten chances to fail by accident.

Intervals are paired bootstraps over problems or windows (`bootstrap`). Metrics without samples
(sizes, latencies, measurements of an older edgewright) are decided on their value alone. Two sides
with equal samples pass. There is no ratio to a baseline of zero: the candidate itself is then
compared with the limit times the baseline, which is zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from ...errors import UsageError
from ..bootstrap import (
    Array,
    Interval,
    bounds,
    resample,
    samples_needed,
    unanimous,
    unanimous_needed,
)
from ..metric import Metric
from ..metrics import find, require, unrecorded, why_unlike
from ..samples import Scores, read_scores
from .policy import Limit, Policy

__all__ = ["Check", "check_gate"]

BOUNDS = (
    ("min_ratio", "ratio", ">="),
    ("max_ratio", "ratio", "<="),
    ("max_drop", "drop", "<="),
    ("min", "", ">="),
    ("max", "", "<="),
)
"""Field of a limit, the quantity it bounds (empty: the candidate's own value), and the side."""
FEW = 20
"""With fewer samples, even equal answers of both sides leave room for one in seven that differ."""
ROUNDING = 1e-12
"""Relative tolerance of a limit: the rounding of floats must not decide."""
NO_RATIO = "the baseline is 0, to which there is no ratio: the candidate is compared with 0"


@dataclass(frozen=True)
class Check:
    """The result of one limit."""

    metric: str
    baseline: float | None
    candidate: float
    limit: str
    observed: float | None
    """The ratio, drop or value that is bounded; None for a ratio to a baseline of zero."""
    verdict: str
    """`pass`, `fail` or `inconclusive`."""
    interval: tuple[float | None, float | None] | None = None
    """Bounds of the observed quantity; None for an infinite end. No interval without samples."""
    samples: int | None = None
    samples_needed: int | None = None
    """About how many samples would decide an inconclusive check; None if no number would."""
    note: str = ""


@dataclass(frozen=True)
class _Bound:
    """One bound: a quantity (`ratio`, `drop`, or empty for the value), `>=` or `<=`, a number."""

    quantity: str
    sign: str
    limit: float

    @property
    def label(self) -> str:
        return f"{self.quantity} {self.sign} {self.limit:g}".lstrip()

    def excess(self, value: float) -> float:
        """How far a value is beyond the limit; positive fails, and NaN is infinitely far."""
        beyond = self.limit - value if self.sign == ">=" else value - self.limit
        return math.inf if math.isnan(beyond) else beyond - ROUNDING * max(1.0, abs(self.limit))

    def observed(self, new: float, old: float | None) -> float | None:
        """The quantity; None for a ratio to zero."""
        if not self.quantity or old is None:
            return new
        if self.quantity == "drop":
            return old - new
        return new / old if old else None

    def holds(self, new: float, observed: float | None) -> bool:
        """Whether the values alone are within the limit; a ratio to zero bounds the candidate."""
        if observed is None:
            return replace(self, limit=0.0).excess(new) <= 0
        return self.excess(observed) <= 0


@dataclass(frozen=True)
class _Resampled:
    """A metric on both sides over the same resampled pairs, float64 [resamples] each.

    Without a baseline, both are the candidate's.
    """

    new: Array
    old: Array
    samples: int
    is_share: bool

    def draws(self, quantity: str) -> Array:
        """The quantity in every draw. Zero on both sides counts as equal: a ratio of 1."""
        if not quantity:
            return self.new
        if quantity == "drop":
            return self.old - self.new
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where((self.old == 0) & (self.new == 0), 1.0, self.new / self.old)


def check_gate(
    candidate: Mapping[str, Any], baseline: Mapping[str, Any], policy: Policy
) -> dict[str, Any]:
    """Compare two measurements: mappings with `name`, `metrics`, `context` and perhaps `samples`.

    Without limits in the policy, the default limits apply to every accuracy and perplexity of the
    baseline.

    Returns:
        The `gate` part of the ledger: `verdict`, `accepted` (whether the exit code is 0), the rule,
        `checks`, and `missing`: metrics of the baseline that have no limit and that the candidate
        lacks.

    Raises:
        UsageError: a metric is not declared, is missing on one side, was measured under other
            conditions, or its samples are damaged.
    """
    limits = dict(policy.limits) or _default_limits(candidate["metrics"], baseline["metrics"])
    if not limits:
        raise UsageError(
            "nothing to compare: no accuracy or perplexity on both sides",
            "measure both with the same tasks and data",
        )
    lost = [
        name
        for name in baseline["metrics"]
        if name not in candidate["metrics"] and not name.endswith(("/n", "/stderr"))
    ]
    checks = [
        check
        for metric, limit in limits.items()
        for check in _checks(metric, limit, candidate, baseline, policy)
    ]
    found = {check.verdict for check in checks}
    verdict = next((word for word in ("fail", "inconclusive") if word in found), "pass")
    tolerated = verdict == "inconclusive" and policy.inconclusive != "fail"
    return {
        "verdict": verdict,
        "accepted": verdict == "pass" or tolerated,
        "candidate": candidate["name"],
        "baseline": baseline["name"],
        "confidence": policy.confidence,
        "resamples": policy.resamples,
        "inconclusive": policy.inconclusive,
        "checks": [asdict(check) for check in checks],
        "missing": [name for name in lost if name not in limits],
    }


def _default_limits(
    candidate: Mapping[str, float], baseline: Mapping[str, float]
) -> dict[str, Limit]:
    """The default limits of the baseline's metrics, also of those that the candidate lacks."""
    limits = {
        name: Limit.model_validate(metric.default_limit)
        for name in baseline
        if (metric := find(name)) is not None and metric.default_limit
    }
    return limits if limits.keys() & candidate.keys() else {}


def _checks(
    name: str,
    limit: Limit,
    candidate: Mapping[str, Any],
    baseline: Mapping[str, Any],
    policy: Policy,
) -> list[Check]:
    """The checks of one metric, one per bound of its limit."""
    metric = require(name, "gate")
    new = _value(name, candidate, "")
    bounds_asked = [
        _Bound(quantity, sign, float(number))
        for field, quantity, sign in BOUNDS
        if (number := getattr(limit, field)) is not None
    ]
    relative = any(bound.quantity for bound in bounds_asked)
    if limit.max_drop is not None and metric.better == "lower":
        raise UsageError(
            f"gate: `max_drop` of `{name}`: less of it is better, so a drop is no regression",
            "use max_ratio or max",
        )
    old = _value(name, baseline, "the baseline ") if relative else baseline["metrics"].get(name)
    if relative and (reason := why_unlike(name, candidate["context"], baseline["context"])):
        raise UsageError(
            f"gate: `{name}` of candidate and baseline cannot be compared: {reason}",
            "measure both sides in the same way",
        )
    if relative and (key := unrecorded(name, candidate["context"], baseline["context"])):
        raise UsageError(
            f"gate: `{name}` of candidate and baseline cannot be compared: the candidate has no "
            f"{key}, and the baseline has it",
            "measure the candidate again with edgewright bench",
        )
    resampled = _resampled(name, candidate, baseline if relative else None, policy)
    note = _note(metric, resampled, read_scores(candidate, name))
    checks: list[Check] = []
    for bound in bounds_asked:
        observed = bound.observed(new, old)
        if resampled is not None and observed is not None and math.isfinite(observed):
            check = Check(name, old, new, bound.label, observed, "", note=note)
            checks.append(_decide(check, bound, resampled, policy))
        else:
            verdict = "pass" if bound.holds(new, observed) else "fail"
            notes = [NO_RATIO if observed is None else "", note]
            why = "; ".join(filter(None, notes))
            checks.append(Check(name, old, new, bound.label, observed, verdict, note=why))
    return checks


def _note(metric: Metric, resampled: _Resampled | None, mine: Scores | None) -> str:
    """What a reader must know about the samples of a check."""
    count = resampled.samples if resampled else len(mine.total) if mine else 0
    few = f"only {count} sample{'s' * (count > 1)}, which prove little" if count else ""
    if resampled:
        return few if count < FEW else ""
    if not metric.has_samples:
        return ""
    if count == 1:
        return f"{few}: decided on the value"
    return "no samples on both sides: decided on the value"


def _value(name: str, measurement: Mapping[str, Any], role: str) -> float:
    """A metric's value; `role` is a word for the error message."""
    value = measurement["metrics"].get(name)
    if value is None:
        raise UsageError(
            f"gate: {role}`{measurement['name']}` has no metric `{name}`",
            "measure it on both sides"
            if role
            else f"it has: {', '.join(sorted(measurement['metrics']))}",
        )
    return value


def _resampled(
    name: str, candidate: Mapping[str, Any], baseline: Mapping[str, Any] | None, policy: Policy
) -> _Resampled | None:
    """The resampled metric; None if a side that counts has no samples, or only one sample."""
    mine = read_scores(candidate, name)
    theirs = read_scores(baseline, name) if baseline is not None else mine
    if mine is None or theirs is None or len(mine.total) < 2:
        return None
    _check_pairs(name, mine, theirs)
    columns = np.stack([mine.total, theirs.total, mine.weight], axis=1)
    sums = resample(columns, policy.resamples, policy.seed)
    new, old = (mine.value_of(sums[:, side] / sums[:, 2]) for side in (0, 1))
    return _Resampled(new, old, len(mine.total), not mine.logarithmic)


def _check_pairs(name: str, mine: Scores, theirs: Scores) -> None:
    if mine.logarithmic != theirs.logarithmic or not np.array_equal(mine.weight, theirs.weight):
        raise UsageError(
            f"gate: the samples of `{name}` are not of the same problems or windows"
            f" ({len(mine.weight)} against {len(theirs.weight)})",
            "measure both sides in the same way",
        )


def _decide(check: Check, bound: _Bound, resampled: _Resampled, policy: Policy) -> Check:
    """The check with the verdict that the interval gives."""
    assert check.observed is not None
    samples = resampled.samples
    agreed = not bound.quantity and resampled.is_share and check.observed in (0.0, 1.0)
    if agreed:
        interval = unanimous(check.observed, samples, policy.confidence)
    else:
        interval = bounds(resampled.draws(bound.quantity), samples, policy.confidence)
    ends = (interval.low, interval.high)
    worst, best = ends if bound.sign == ">=" else reversed(ends)
    needed = None
    if bound.excess(best) > 0:
        verdict = "fail"
    elif bound.excess(worst) <= 0:
        verdict = "pass"
    else:
        verdict = "inconclusive"
        needed = (
            unanimous_needed(check.observed, bound.limit, policy.confidence)
            if agreed
            else samples_needed(check.observed, bound.limit, interval, samples, policy.confidence)
        )
    return Check(
        check.metric,
        check.baseline,
        check.candidate,
        check.limit,
        check.observed,
        verdict,
        interval=_finite_ends(interval),
        samples=samples,
        samples_needed=needed,
        note=check.note,
    )


def _finite_ends(interval: Interval) -> tuple[float | None, float | None]:
    low, high = (end if math.isfinite(end) else None for end in (interval.low, interval.high))
    return low, high
