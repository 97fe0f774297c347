"""The objectives of a sweep: which metrics it optimizes, and in which direction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..benchmarks.measured_names import why_unmeasured
from ..benchmarks.metric_conditions import TARGET
from ..benchmarks.metrics import PREDICTED, require
from ..errors import UsageError
from .named_inputs import measured_of
from .recipe import Recipe

__all__ = ["Objective", "check_objectives", "default_objectives", "objective_values"]


@dataclass(frozen=True)
class Objective:
    """A metric of the last step, and whether less of it is better."""

    metric: str
    less: bool

    @classmethod
    def parse(cls, text: str) -> Objective:
        """Read `METRIC`, or `METRIC:min` or `METRIC:max` where the direction is not declared.

        Raises:
            UsageError: the metric is not declared; or it has no direction, and the text gives none.
        """
        if text.endswith((":min", ":max")):
            metric, _, direction = text.rpartition(":")
            require(metric, f"--objective {text}")
            return cls(metric, direction == "min")
        better = require(text, f"--objective {text}").better
        if better == "unknown":
            raise UsageError(
                f"--objective {text}: edgewright does not know which way is better",
                f"write --objective {text}:min or --objective {text}:max",
            )
        return cls(text, better == "lower")

    def larger_is_better(self, value: float) -> float:
        """The value with its sign changed if less of the metric is better."""
        return -value if self.less else value


def default_objectives(recipe: Recipe) -> tuple[Objective, ...]:
    """The first accuracy or perplexity that the recipe measures, decode speed, and size.

    Raises:
        UsageError: the recipe measures neither.
    """
    evaluate = recipe.evaluate
    if evaluate.tasks:
        from ..benchmarks.tasks.task import Task  # late: torch

        quality = f"accuracy/{Task.parse(evaluate.tasks[0]).label}"
    elif evaluate.perplexity:
        from ..data.sources import Source  # late: torch

        quality = f"perplexity/{Source.parse(evaluate.perplexity[0]).label}"
    else:
        raise UsageError(
            "the recipe measures no accuracy and no perplexity",
            "give it `evaluate.tasks`, or name each --objective",
        )
    speed = ["decode_tok_s/p50"] if evaluate.latency else []
    return tuple(map(Objective.parse, [quality, *speed, "size_bytes"]))


def check_objectives(objectives: Sequence[Objective], recipe: Recipe) -> None:
    """Accept objectives that a run of the recipe measures, as far as the recipe says.

    Raises:
        UsageError: it does not measure one of them.
    """
    measured = measured_of(recipe, recipe.gate.candidate if recipe.gate else recipe.step_names[-1])
    for one in objectives:
        predicted = require(one.metric, "--objective").conditions == TARGET
        untold = "the recipe has no `target`" if predicted and recipe.target is None else ""
        if why := untold or why_unmeasured(one.metric, measured):
            raise UsageError(
                f"--objective {one.metric}: {why}", "measure it, or name another --objective"
            )


def objective_values(ledger: Mapping[str, Any]) -> dict[str, float]:
    """The metrics that an objective may name.

    Returns:
        Those of the gate's candidate, or else of the last step; with a target, also what the plan
        predicts for it, under `predicted/`.
    """
    wanted = (ledger.get("gate") or {}).get("candidate") or ledger["steps"][-1]["name"]
    step = next(one for one in ledger["steps"] if one["name"] == wanted)
    row = next((one for one in ledger["plan"]["rows"] if one["step"] == wanted), {})
    predicted = {f"predicted/{name}": row[name] for name in PREDICTED if row.get(name) is not None}
    return step["metrics"] | predicted
