"""The regression gate: a candidate's metrics against a baseline's, under limits that a policy sets, decided on evidence.

Each limit is held against an interval, not a figure. Both of its ends are one-sided bounds at the policy's confidence:

- fail: the whole interval is on the wrong side of the limit, so a candidate exactly at its limit fails 1 time in 20 (at 0.95);
- pass: the whole interval is on the right side of the limit, or on it;
- inconclusive: the limit is inside; the check then says about how many samples would decide it.

The gate fails if a check fails, and passes if all of them pass. What an inconclusive one does to the exit code is the
policy's choice: by default it warns, since a job that fails for lack of samples gets switched off; `inconclusive: fail`
is for a release that has to prove itself. Each check has the confidence by itself: ten limits at 0.95 are ten chances.

Intervals are paired bootstraps over problems or windows (`statistics`). What has no samples (sizes, latencies, measurements
of an older edgewright) is decided on the value alone. Two sides whose samples are all alike leave no doubt, and pass.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ...errors import UsageError
from ..measurement_files import Scores, comparable, read_scores
from ..statistics import Array, Interval, bounds, resample, samples_needed
from .policy import DEFAULT_LIMITS, Limit, Policy

__all__ = ["LESS_IS_BETTER", "Check", "check_gate"]

BOUNDS = (
    ("min_ratio", "ratio", ">="),
    ("max_ratio", "ratio", "<="),
    ("max_drop", "drop", "<="),
    ("min", "", ">="),
    ("max", "", "<="),
)
"""Field of a limit, the figure that it bounds (none: the candidate's own value), and from which side."""
SAMPLED = ("accuracy", "perplexity")
LESS_IS_BETTER = ("perplexity", "kl", "ttft_ms", "peak_rss_bytes", "size_bytes", "parameters")
ROUNDING = 1e-12


@dataclass(frozen=True)
class Check:
    """One limit, applied."""

    metric: str
    baseline: float | None
    candidate: float
    limit: str
    observed: float | None
    """The ratio, drop or value that the limit bounds; None where the baseline is zero, which no candidate passes."""
    verdict: str
    """`pass`, `fail` or `inconclusive`."""
    interval: tuple[float | None, float | None] | None = None
    """Bounds of what was observed, None for an end that is infinite; no interval without samples."""
    samples: int | None = None
    samples_needed: int | None = None
    """About how many would decide an inconclusive check; None where no number would."""
    note: str = ""


@dataclass(frozen=True)
class _Evidence:
    """A metric on both sides over the same resampled pairs, float64 [resamples] each; the candidate's twice without a baseline."""

    new: Array
    old: Array
    samples: int


def check_gate(
    candidate: Mapping[str, Any], baseline: Mapping[str, Any], policy: Policy
) -> dict[str, Any]:
    """Compare two measurements (mappings with `name`, `metrics`, `context` and perhaps `samples`).

    Without limits in the policy, the defaults apply to every accuracy and perplexity that both sides have.

    Returns:
        The gate's part of the ledger: `verdict`, `accepted` (whether the exit code is 0), the rule, and `checks`.

    Raises:
        UsageError: a metric is missing on one side, was measured under other conditions, or its samples are damaged.
    """
    chosen = dict(policy.limits) or _defaults(candidate["metrics"], baseline["metrics"])
    if not chosen:
        raise UsageError(
            "nothing to compare: no accuracy or perplexity on both sides",
            "measure both with the same tasks and data",
        )
    checks = [
        check
        for metric, limit in chosen.items()
        for check in _checks(metric, limit, candidate, baseline, policy)
    ]
    found = {check.verdict for check in checks}
    verdict = next((word for word in ("fail", "inconclusive") if word in found), "pass")
    return {
        "verdict": verdict,
        "accepted": verdict == "pass"
        or (verdict == "inconclusive" and policy.inconclusive != "fail"),
        "candidate": candidate["name"],
        "baseline": baseline["name"],
        "confidence": policy.confidence,
        "resamples": policy.resamples,
        "inconclusive": policy.inconclusive,
        "checks": [asdict(check) for check in checks],
    }


def _defaults(candidate: Mapping[str, float], baseline: Mapping[str, float]) -> dict[str, Limit]:
    shared = [m for m in candidate if m in baseline and m.count("/") == 1]
    return {m: DEFAULT_LIMITS[m.split("/")[0]] for m in shared if m.split("/")[0] in DEFAULT_LIMITS}


def _checks(
    metric: str,
    limit: Limit,
    candidate: Mapping[str, Any],
    baseline: Mapping[str, Any],
    policy: Policy,
) -> list[Check]:
    new, old = candidate["metrics"].get(metric), baseline["metrics"].get(metric)
    kind = metric.partition("/")[0]
    asked = [
        (figure, sign, float(bound))
        for name, figure, sign in BOUNDS
        if (bound := getattr(limit, name)) is not None
    ]
    relative = any(figure for figure, _, _ in asked)
    if new is None:
        raise UsageError(
            f"gate: `{candidate['name']}` has no metric `{metric}`",
            f"it has: {', '.join(sorted(candidate['metrics']))}",
        )
    if limit.max_drop is not None and kind in LESS_IS_BETTER:
        raise UsageError(
            f"gate: `max_drop` of `{metric}`: less of it is better, so that a drop is no regression",
            "use max_ratio or max",
        )
    if relative:
        if old is None:
            raise UsageError(
                f"gate: the baseline `{baseline['name']}` has no metric `{metric}`",
                "measure it on both sides",
            )
        reason = comparable(candidate["context"], baseline["context"], metric)
        if reason:
            raise UsageError(
                f"gate: `{metric}` of candidate and baseline cannot be compared: {reason}",
                "measure both sides alike",
            )
    evidence = _evidence(metric, candidate, baseline if relative else None, policy)
    note = (
        "no samples on both sides: decided on the value"
        if kind in SAMPLED and evidence is None
        else ""
    )
    checks: list[Check] = []
    for figure, sign, bound in asked:
        observed = _observed(figure, new, old)
        label = f"{figure} {sign} {bound:g}".lstrip()
        if evidence is None or observed is None or not math.isfinite(observed):
            verdict = (
                "pass" if observed is not None and _wrong_by(observed, sign, bound) <= 0 else "fail"
            )
            checks.append(Check(metric, old, new, label, observed, verdict, note=note))
        else:
            checks.append(
                _decided(
                    Check(metric, old, new, label, observed, ""),
                    figure,
                    sign,
                    bound,
                    evidence,
                    policy,
                )
            )
    return checks


def _evidence(
    metric: str, candidate: Mapping[str, Any], baseline: Mapping[str, Any] | None, policy: Policy
) -> _Evidence | None:
    """The resampled metric, or None where a side that counts has no samples, or one alone."""
    mine = read_scores(candidate, metric)
    theirs = read_scores(baseline, metric) if baseline is not None else mine
    if mine is None or theirs is None or len(mine.total) < 2:
        return None
    _pairs(metric, mine, theirs)
    sums = resample(
        np.stack([mine.total, theirs.total, mine.weight], axis=1), policy.resamples, policy.seed
    )
    new, old = (mine.figure(sums[:, side] / sums[:, 2]) for side in (0, 1))
    return _Evidence(new, old, len(mine.total))


def _pairs(metric: str, mine: Scores, theirs: Scores) -> None:
    if mine.logarithmic != theirs.logarithmic or not np.array_equal(mine.weight, theirs.weight):
        raise UsageError(
            f"gate: the samples of `{metric}` are not of the same problems or windows ({len(mine.weight)} against {len(theirs.weight)})",
            "measure both sides alike",
        )


def _observed(figure: str, new: float, old: float | None) -> float | None:
    if not figure or old is None:
        return new
    if figure == "drop":
        return old - new
    return new / old if old else None


def _drawn(figure: str, evidence: _Evidence) -> Array:
    """The figure in every draw. Where nothing is right on either side the two are alike, which is a ratio of 1."""
    if not figure:
        return evidence.new
    if figure == "drop":
        return evidence.old - evidence.new
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((evidence.old == 0) & (evidence.new == 0), 1.0, evidence.new / evidence.old)


def _wrong_by(value: float, sign: str, bound: float) -> float:
    """How far a value is on the wrong side of its bound, a float's rounding left out; positive is wrong, NaN is infinitely so."""
    wrong = bound - value if sign == ">=" else value - bound
    return math.inf if math.isnan(wrong) else wrong - ROUNDING * max(1.0, abs(bound))


def _decided(
    check: Check, figure: str, sign: str, bound: float, evidence: _Evidence, policy: Policy
) -> Check:
    """The check with the verdict that the interval gives."""
    assert check.observed is not None
    found = bounds(_drawn(figure, evidence), evidence.samples, policy.confidence)
    worst, best = (found.low, found.high) if sign == ">=" else (found.high, found.low)
    verdict = (
        "fail"
        if _wrong_by(best, sign, bound) > 0
        else "pass"
        if _wrong_by(worst, sign, bound) <= 0
        else "inconclusive"
    )
    needed = (
        samples_needed(check.observed, bound, found, evidence.samples, policy.confidence)
        if verdict == "inconclusive"
        else None
    )
    return Check(
        check.metric,
        check.baseline,
        check.candidate,
        check.limit,
        check.observed,
        verdict,
        interval=_finite(found),
        samples=evidence.samples,
        samples_needed=needed,
    )


def _finite(found: Interval) -> tuple[float | None, float | None]:
    low, high = (end if math.isfinite(end) else None for end in (found.low, found.high))
    return low, high
