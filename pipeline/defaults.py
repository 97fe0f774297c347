"""Data that a recipe or a verb did not name: what fits the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ..benchmarks.options import EvaluateOptions
from ..checkpoints.config import is_builtin
from ..errors import UsageError
from ..steps.context import CalibrationData
from ..steps.options import AUTO, OWN, PROMPTS, REASONING
from ..steps.own_text import OwnText
from ..steps.step import Step
from .recipe import Recipe
from .registry import STEPS

__all__ = ["calibration_for", "calibration_summary", "with_default_data", "with_training_data"]


def with_default_data(recipe: Recipe, model: Path) -> Recipe:
    """The recipe with data in place of every `auto`. Nothing is generated.

    A recipe without `evaluate` measures the built-in model on its task, and other models by
    perplexity on the built-in prompts.

    Args:
        recipe: the recipe.
        model: directory of its model.

    Raises:
        UsageError: a step trains, and no data is named.
    """
    known = is_builtin(model)
    changes: dict[str, Any] = {
        "steps": tuple(
            with_training_data(STEPS[step.kind], step, model, f"{recipe.name}: step `{name}`")
            for name, step in zip(recipe.step_names, recipe.steps, strict=True)
        )
    }
    if recipe.calibration.source == AUTO:
        source = REASONING if known else OWN
        changes["calibration"] = recipe.calibration.model_copy(update={"source": source})
    if "evaluate" not in recipe.model_fields_set and not known:
        changes["evaluate"] = EvaluateOptions(perplexity=(PROMPTS,))
    return recipe.model_copy(update=changes)


def with_training_data(step: Step[Any], options: Any, model: Path, where: str) -> Any:
    """The options of a step with data in place of `auto`, if the step trains.

    Args:
        step: the step.
        options: its options.
        model: directory of the model that is trained, or of the recipe's model.
        where: what to name in the message.

    Raises:
        UsageError: no data is named, and the model is not the built-in one.
    """
    if is_builtin(model):
        return step.with_data(options, AUTO, REASONING)
    if AUTO in step.inputs(options).data:
        raise UsageError(
            f"{where}: there is no text to train on: none is named, and only the built-in model "
            "has a task of its own",
            "give --data SOURCE (in a recipe: `data`); `edgewright traces` lets a teacher write "
            "answers to your questions",
        )
    return options


def calibration_for(
    step: Step[Any], options: BaseModel, data: CalibrationData, own: OwnText
) -> CalibrationData:
    """The calibration data of one step: `auto` and `builtin:own` settled."""
    return data.resolved(own, needed=step.calibrates(options))


def calibration_summary(step: Step[Any], options: BaseModel, data: CalibrationData) -> str:
    """What a step of a plan will calibrate on; empty if it needs no calibration text."""
    if not step.calibrates(options):
        return ""
    own = ", the model's own answers to built-in prompts, which it writes when the step runs"
    size = f"at most {data.samples} x {data.seq_len} tokens"
    return f"{size} of {data.source}{own if data.source == OWN else ''}"
