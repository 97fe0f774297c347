"""What the gate asks: limits by metric, how sure it has to be, and what becomes of a question left open."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ...errors import UsageError

__all__ = ["DEFAULT_LIMITS", "Limit", "Policy", "load_policy"]


class Limit(BaseModel):
    """What one metric must satisfy; ratios are candidate / baseline, a drop is baseline - candidate."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_ratio: float | None = Field(
        default=None, description="at least this share of the baseline's value (recovery)"
    )
    max_ratio: float | None = Field(
        default=None, description="at most this multiple of the baseline's value"
    )
    max_drop: float | None = Field(
        default=None, description="at most this much below the baseline's value, in its unit"
    )
    min: float | None = Field(default=None, description="at least this value")
    max: float | None = Field(default=None, description="at most this value")

    @model_validator(mode="after")
    def _something(self) -> Limit:
        if not self.model_dump(exclude_none=True):
            raise ValueError("give min_ratio, max_ratio, max_drop, min or max")
        return self


class Policy(BaseModel):
    """The limits, and the rule that decides on them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    limits: dict[str, Limit] = Field(
        default_factory=dict, description="by metric; none: the defaults by kind of metric"
    )
    confidence: float = Field(
        default=0.95,
        gt=0.5,
        lt=1,
        description="of a verdict: 0.95 lets 1 in 20 fail wrongly at its limit",
    )
    resamples: int = Field(default=10_000, ge=100, le=1_000_000, description="bootstrap draws")
    seed: int = Field(default=0, ge=0, description="of the draws")
    inconclusive: Literal["pass", "warn", "fail"] = Field(
        default="warn",
        description="what an open question does to the exit code: pass and warn give 0 (warn says so), fail gives 5",
    )


DEFAULT_LIMITS = {
    "accuracy": Limit.model_validate({"min_ratio": 0.95}),
    "perplexity": Limit.model_validate({"max_ratio": 1.06}),
}
"""By kind of metric, used where a policy names none: what peers ask of a 4-bit model of 3B and more."""


def load_policy(path: Path | None) -> Policy:
    """The policy in a file, or the default one.

    Settings stand at the top level. The limits stand under `limits`; without that key, every other key is a metric.

    Raises:
        UsageError: the file is missing or malformed.
    """
    if path is None:
        return Policy()
    try:
        return Policy.model_validate(_arranged(yaml.safe_load(path.read_text(encoding="utf-8"))))
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be read: {error.strerror}", "give the path of a policy file"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])).removeprefix("limits.")
        hint = "limits: min_ratio, max_ratio, max_drop, min, max; settings: confidence, resamples, seed, inconclusive"
        raise UsageError(f"{path}: {where}: {first['msg']}", hint) from error
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise UsageError(
            f"{path}: not a mapping of metrics to limits: {error}",
            "e.g. accuracy/reasoning: {max_drop: 0.01}",
        ) from error


def _arranged(data: Any) -> dict[str, Any]:
    mapping = dict(data)
    if "limits" in mapping:
        return mapping
    settings = {key: mapping.pop(key) for key in Policy.model_fields if key in mapping}
    return {**settings, "limits": mapping}
