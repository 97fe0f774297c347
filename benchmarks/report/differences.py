"""Whether one measurement is better than another, by how much, and how sure that is.

Metrics that both sides kept samples of are decided by the paired bootstrap of the gate, with the
limit that nothing got worse. All others are decided on their values alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ...errors import UsageError
from ..gate.gate import check_gate
from ..gate.policy import Limit, Policy
from ..measurement_files import step_measurement
from ..metric import Metric
from ..metrics import find, why_unlike
from .ledger_view import Record, metric_of, name_of, number, part, steps_of

__all__ = ["CLEAR", "Difference", "Outcome", "differences", "judge", "paired_by_step"]

Outcome = Literal["better", "worse", "open", "same"]
CLEAR = 0.02
"""Sizes and speeds that differ by a smaller share than this count as the same."""
ERRORS = 1.96
"""Standard errors of the difference that a change of a share must be above, without samples."""
NOISE_OF = {"prefill_tok_s": "ttft_ms"}
"""Metrics whose noise is that of the one that they are computed from."""


@dataclass(frozen=True)
class Difference:
    """One metric of a measurement beside that of another one.

    Attributes:
        outcome: of the first: `better`, `worse`, `same`, or `open`, which chance may explain.
        paired: the check on the samples that both sides answered; None without samples.
        other_runtime: whether the two were measured in different runtimes, which makes no factor.
    """

    metric: Metric
    name: str
    value: float
    other: float
    outcome: Outcome
    paired: Mapping[str, Any] | None = None
    other_runtime: bool = False


def differences(one: Record, first: Record) -> dict[str, dict[str, Any]]:
    """For each metric that both have samples of: whether it got worse, or why that is unknown.

    Args:
        one: a measurement with its samples, as `measurement_files` reads it.
        first: the one that it is compared with.
    """
    found: dict[str, dict[str, Any]] = {}
    for name in one["metrics"]:
        metric = find(name)
        if metric is None or not metric.has_samples or name not in first["metrics"]:
            continue
        if reason := why_unlike(name, one["context"], first["context"]):
            found[name] = {"unlike": reason}
            continue
        try:
            gate = check_gate(one, first, Policy(limits={name: _no_loss(metric)}))
        except UsageError as error:
            found[name] = {"unlike": str(error).rpartition(": ")[2]}
        else:
            check = gate["checks"][0]
            keys = ("observed", "interval", "verdict", "samples", "samples_needed")
            quantity = "drop" if metric.better == "higher" else "ratio"
            found[name] = {key: check[key] for key in keys} | {"quantity": quantity}
    return found


def _no_loss(metric: Metric) -> Limit:
    """The limit that a metric did not get worse at all."""
    return Limit(max_drop=0.0) if metric.better == "higher" else Limit(max_ratio=1.0)


def paired_by_step(
    run: Path, ledger: Record, parents: Mapping[str, str]
) -> dict[str, dict[str, dict[str, Any]]]:
    """`differences` between each step of a run and the one that it started from, by step.

    A step whose samples are gone or were changed is left out.

    Args:
        run: its directory.
        ledger: of the run.
        parents: for each step, the name of the step that it started from.
    """
    measured: dict[str, dict[str, Any]] = {}
    for step in steps_of(ledger):
        try:
            measured[name_of(step)] = step_measurement(run, step)
        except UsageError:
            continue
    return {
        name: differences(measured[name], measured[parent])
        for name, parent in parents.items()
        if name in measured and parent in measured
    }


def judge(
    name: str, one: Record, other: Record, paired: Mapping[str, Any] | None = None
) -> Difference | None:
    """What became of a metric of a step; None if it cannot be compared with that of the other.

    Args:
        name: of the metric.
        one: entry of the step.
        other: entry of the step that it is compared with.
        paired: the part of `differences` about this metric.
    """
    metric = find(name)
    value, before = metric_of(one, name), metric_of(other, name)
    contexts = (part(one, "context"), part(other, "context"))
    if metric is None or value is None or before is None or why_unlike(name, *contexts):
        return None
    if not (math.isfinite(value) and math.isfinite(before)):
        return None
    if not metric.has_factor(*contexts):
        return Difference(metric, name, value, before, "open", other_runtime=True)
    if paired is not None and paired.get("interval"):
        outcome = _of_interval(paired, metric)
        return Difference(metric, name, value, before, outcome, paired)
    return Difference(metric, name, value, before, _of_values(name, one, other, metric))


def _of_interval(paired: Mapping[str, Any], metric: Metric) -> Outcome:
    """The outcome of the limit that nothing got worse."""
    if paired["verdict"] == "fail":
        return "worse"
    neutral = 0.0 if metric.better == "higher" else 1.0
    ends = [number(end) for end in paired["interval"]]
    if ends[0] == ends[1] == neutral:
        return "same"
    return "better" if ends[1] is not None and ends[1] < neutral else "open"


def _of_values(name: str, one: Record, other: Record, metric: Metric) -> Outcome:
    """The outcome where there are no samples of both sides."""
    value, before = metric_of(one, name) or 0.0, metric_of(other, name) or 0.0
    if value == before:
        return "same"
    errors = [metric_of(side, f"{name}/stderr") for side in (one, other)]
    known = [error for error in errors if error is not None]
    if known and abs(value - before) <= ERRORS * math.hypot(*known):
        return "open"
    if not known and abs(value - before) <= CLEAR * abs(before):
        return "same"
    kind = name.partition("/")[0]
    kind = NOISE_OF.get(kind, kind)
    if any(kind in (part(side, "context").get("noisy") or ()) for side in (one, other)):
        return "open"
    return "better" if (value > before) == (metric.better == "higher") else "worse"
