"""The regression gate: a candidate's metrics against a baseline's, under limits that a policy sets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from ..errors import UsageError
from .measure import comparable

__all__ = ["DEFAULT_LIMITS", "Check", "Limit", "check_gate", "load_measurement", "load_policy"]


class Limit(BaseModel):
    """What one metric must satisfy; ratios are candidate / baseline."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_ratio: float | None = Field(default=None, description="at least this share of the baseline's value (recovery)")
    max_ratio: float | None = Field(default=None, description="at most this multiple of the baseline's value")
    min: float | None = Field(default=None, description="at least this value")
    max: float | None = Field(default=None, description="at most this value")

    @model_validator(mode="after")
    def _something(self) -> Limit:
        if not any(v is not None for v in (self.min_ratio, self.max_ratio, self.min, self.max)):
            raise ValueError("give min_ratio, max_ratio, min or max")
        return self


DEFAULT_LIMITS = {
    "accuracy": Limit(min_ratio=0.95, max_ratio=None, min=None, max=None),
    "perplexity": Limit(min_ratio=None, max_ratio=1.06, min=None, max=None),
}
"""By kind of metric, used where a policy names none: what peers ask of a 4-bit model of 3B and more."""


@dataclass(frozen=True)
class Check:
    """One limit, applied."""

    metric: str
    baseline: float | None
    candidate: float
    limit: str
    observed: float | None
    """The ratio or value that the limit bounds; None where the baseline is zero, which no candidate passes."""
    passed: bool


def check_gate(candidate: Mapping[str, Any], baseline: Mapping[str, Any], limits: Mapping[str, Limit]) -> dict[str, Any]:
    """Compare two measurements (mappings with `name`, `metrics` and `context`) and return the gate's part of the ledger.

    A point estimate inside its limit passes; one outside fails. Without limits, the defaults apply to every accuracy
    and perplexity that both sides have.

    Raises:
        UsageError: a metric is missing on one side, or was measured under other conditions.
    """
    chosen = dict(limits) or _defaults(candidate["metrics"], baseline["metrics"])
    if not chosen:
        raise UsageError("nothing to compare: no accuracy or perplexity on both sides", "measure both with the same tasks and data")
    checks = [check for metric, limit in chosen.items() for check in _checks(metric, limit, candidate, baseline)]
    return {
        "verdict": "pass" if all(c.passed for c in checks) else "fail",
        "candidate": candidate["name"],
        "baseline": baseline["name"],
        "checks": [asdict(c) for c in checks],
    }


def _defaults(candidate: Mapping[str, float], baseline: Mapping[str, float]) -> dict[str, Limit]:
    shared = [m for m in candidate if m in baseline and m.count("/") == 1]
    return {m: DEFAULT_LIMITS[m.split("/")[0]] for m in shared if m.split("/")[0] in DEFAULT_LIMITS}


def _checks(metric: str, limit: Limit, candidate: Mapping[str, Any], baseline: Mapping[str, Any]) -> list[Check]:
    new, old = candidate["metrics"].get(metric), baseline["metrics"].get(metric)
    relative = limit.min_ratio is not None or limit.max_ratio is not None
    if new is None:
        raise UsageError(f"gate: `{candidate['name']}` has no metric `{metric}`", f"it has: {', '.join(sorted(candidate['metrics']))}")
    if relative:
        if old is None:
            raise UsageError(f"gate: the baseline `{baseline['name']}` has no metric `{metric}`", "measure it on both sides")
        reason = comparable(candidate["context"], baseline["context"], metric)
        if reason:
            raise UsageError(f"gate: `{metric}` of candidate and baseline cannot be compared: {reason}", "measure both sides alike")
    ratio = new / old if relative and old else None
    bounds = [("ratio >=", limit.min_ratio, ratio), ("ratio <=", limit.max_ratio, ratio), (">=", limit.min, new), ("<=", limit.max, new)]
    return [
        Check(metric, old, new, f"{sign} {bound:g}", value, _holds(sign, value, bound))
        for sign, bound, value in bounds
        if bound is not None
    ]


def _holds(sign: str, value: float | None, bound: float) -> bool:
    if value is None:
        return False
    return value >= bound if sign.endswith(">=") else value <= bound


def load_measurement(where: str) -> dict[str, Any]:
    """A measurement from a file that `bench --save` wrote, or of one step of a run (`RUN:STEP`).

    Raises:
        UsageError: no such file, run or step.
    """
    file, step = Path(where), ""
    if not file.is_file():
        folder, _, step = where.rpartition(":")
        file = Path(folder) / "ledger.json"
        if not folder or not file.is_file():
            raise UsageError(f"{where}: neither a measurement file nor RUN:STEP", "make one with `edgewright bench PATH --save FILE`")
    try:
        data = json.loads(file.read_text())
        found = data if not step else next((s for s in data["steps"] if s["name"] == step), None)
        if found is None:
            raise UsageError(f"{file}: no step `{step}`", f"steps: {', '.join(s['name'] for s in data['steps'])}")
        return {key: found[key] for key in ("name", "metrics", "context")}
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise UsageError(f"{file}: not a measurement: {error}", "make one with `edgewright bench PATH --save FILE`") from error


def load_policy(path: Path | None) -> dict[str, Limit]:
    """The limits of a policy file; none without a file.

    Raises:
        UsageError: the file is missing or malformed.
    """
    if path is None:
        return {}
    try:
        data = yaml.safe_load(path.read_text())
        return TypeAdapter(dict[str, Limit]).validate_python(dict(data))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}", "give the path of a policy file") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}", "limits: min_ratio, max_ratio, min, max") from error
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise UsageError(f"{path}: not a mapping of metrics to limits: {error}", "e.g. accuracy/reasoning: {min_ratio: 0.95}") from error
