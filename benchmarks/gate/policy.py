"""The gate's policy: limits by metric, the confidence, and what an inconclusive check means."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ...documents import YAML_BYTES, parse_yaml, read_text
from ...errors import UsageError, nearest
from ...steps.option_errors import reason
from ...steps.strict import STRICT
from ..metrics import find, require, why_impossible

__all__ = ["Limit", "Policy", "check_limits", "load_policy"]

EXAMPLE = "e.g. accuracy/reasoning: {max_drop: 0.01}"


class Limit(BaseModel):
    """The limits of one metric; a ratio is candidate / baseline, a drop is baseline - candidate."""

    model_config = STRICT | ConfigDict(strict=True)

    min_ratio: float | None = Field(
        default=None,
        gt=0,
        description="at least this share of the baseline's value (recovery)",
    )
    max_ratio: float | None = Field(
        default=None, gt=0, description="at most this multiple of the baseline's value"
    )
    max_drop: float | None = Field(
        default=None, description="at most this much below the baseline's value, in its unit"
    )
    min: float | None = Field(default=None, description="at least this value")
    max: float | None = Field(default=None, description="at most this value")

    @model_validator(mode="after")
    def _at_least_one(self) -> Limit:
        if not self.model_dump(exclude_none=True):
            raise ValueError("give min_ratio, max_ratio, max_drop, min or max")
        return self

    def why_useless(self, name: str) -> str:
        """Why the limit of this metric stops no regression, or lets nothing pass; or empty."""
        metric = find(name)
        for field in ("min", "max"):
            value = getattr(self, field)
            if value is not None and (why := why_impossible(name, value)):
                return f"{field} is {value:g}: {why}"
        if metric is None or metric.better == "unknown":
            return ""
        higher = metric.better == "higher"
        useful = ("min_ratio", "max_drop", "min") if higher else ("max_ratio", "max")
        if self.max_drop is not None and not higher:
            return "`max_drop`: less of it is better, so a drop is no regression: use max_ratio"
        if all(getattr(self, field) is None for field in useful):
            return (
                f"{'more' if higher else 'less'} of it is better, and this limit stops no "
                f"regression: use {', '.join(useful[:-1])} or {useful[-1]}"
            )
        return ""


class Policy(BaseModel):
    """The limits, and the rule that decides on them."""

    model_config = STRICT

    limits: dict[str, Limit] = Field(
        default_factory=dict,
        description="by metric; none: the default limits of accuracy and perplexity",
    )
    confidence: float = Field(
        default=0.95,
        gt=0.5,
        lt=1,
        description="of each bound of an interval, and so of a verdict: at 0.95, 1 in 20 "
        "candidates exactly at their limit fails, and both bounds together hold at 90 %",
    )
    resamples: int = Field(default=10_000, ge=100, le=1_000_000, description="bootstrap draws")
    seed: int = Field(default=0, ge=0, description="of the draws")
    inconclusive: Literal["pass", "warn", "fail"] = Field(
        default="warn",
        description="effect of an inconclusive check on the exit code:"
        " pass and warn give 0 (warn says so), fail gives 5",
    )


def _why(error: Mapping[str, Any], where: str) -> str:
    """What is wrong with an entry; of an unknown one, which one may have been meant."""
    if error["type"] == "extra_forbidden":
        near = nearest(where.partition(".")[0], Policy.model_fields)
        return f"there is no such setting{near and f'; did you mean `{near}`?'}"
    return reason(error)


def load_policy(path: Path | None) -> Policy:
    """The policy in a YAML file, or the default one without a file.

    Settings are at the top level of the file and limits are under `limits`. In a file without that
    key, every other key is a metric.

    Raises:
        UsageError: the file is missing or malformed.
    """
    if path is None:
        return Policy()
    data = _read(path)
    try:
        policy = Policy.model_validate(_with_limits(data))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])).removeprefix("limits.")
        raise UsageError(
            f"{path}: {where}: {_why(first, where)}",
            "limits: min_ratio, max_ratio, max_drop, min, max;"
            " settings: confidence, resamples, seed, inconclusive",
        ) from error
    except (TypeError, ValueError) as error:
        raise UsageError(f"{path}: not a mapping of metrics to limits: {error}", EXAMPLE) from error
    if not data or data.get("limits", ...) == {}:
        raise UsageError(
            f"{path}: an empty policy limits nothing",
            f"give limits, {EXAMPLE}; or leave the policy out for the default limits",
        )
    check_limits(policy, str(path))
    return policy


def _read(path: Path) -> Any:
    """The value in a YAML file."""
    text = read_text(path, "give the path of a policy file", YAML_BYTES)
    return parse_yaml(text, f"{path}: not a mapping of metrics to limits", EXAMPLE)[1]


def check_limits(policy: Policy, where: str) -> None:
    """Refuse limits that cannot do what a gate is for.

    Args:
        policy: the policy.
        where: the beginning of the error message.

    Raises:
        UsageError: an unknown metric, a limit in the wrong direction, or an impossible one.
    """
    for name, limit in policy.limits.items():
        require(name, where)
        if why := limit.why_useless(name):
            raise UsageError(f"{where}: {name}: {why}", "correct the limit")


def _with_limits(data: Any) -> dict[str, Any]:
    """The mapping with all metrics under `limits`."""
    if not isinstance(data, dict):
        raise TypeError("it is another value")
    mapping = dict(cast(dict[str, Any], data))
    if "limits" in mapping:
        return mapping
    settings = {key: mapping.pop(key) for key in Policy.model_fields if key in mapping}
    return {**settings, "limits": mapping}
