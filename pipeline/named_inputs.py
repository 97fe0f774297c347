"""Checks that all models, data and tasks which a recipe names are there, before any work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..benchmarks.inputs import check_labels
from ..benchmarks.measured_names import why_unmeasured
from ..benchmarks.options import EvaluateOptions
from ..benchmarks.tasks.task import Task
from ..benchmarks.without_logits import measured_without_logits
from ..checkpoints.config import model_path, resolve
from ..data.sources import Source
from ..errors import UsageError
from ..export.options import ExportOptions
from ..models import FORMATS
from ..steps.options import AUTO, TRACES
from .recipe import BASELINE, Recipe
from .registry import STEPS

__all__ = ["check_inputs", "measured_of"]


def check_inputs(recipe: Recipe) -> None:
    """Accept a recipe if every model, SOURCE and TASK in it can be used.

    Raises:
        UsageError: naming all that cannot, and where the recipe names them.
    """
    faults = {
        f"{place}: {error}": error.hint
        for place, find, name in _named(recipe)
        if (error := _fault(find, name))
    }
    if not faults and recipe.gate:  # a task that cannot be read has no name yet
        evaluate = measured_of(recipe, recipe.gate.candidate)
        faults = {
            f"gate.limits.{metric}: {why}": "measure it, or change the limit"
            for metric in recipe.gate.limits
            if (why := why_unmeasured(metric, evaluate))
        }
    if faults:
        separator = "\n  " if len(faults) > 1 else " "
        raise UsageError(
            separator.join(["the recipe names what cannot be used:", *faults]),
            "; ".join(dict.fromkeys(faults.values())),
        )


def _named(recipe: Recipe) -> Iterator[tuple[str, Callable[[str], Any], str]]:
    """Where the recipe names a model, a source or a task, what finds it, and its name.

    The last two check all texts and all tasks together.
    """
    yield "model", _directory, recipe.model
    yield "calibration.source", _source, recipe.calibration.source
    if recipe.traces:
        yield "traces.prompts", _source, recipe.traces.prompts
    for name in recipe.evaluate.perplexity:
        yield "evaluate.perplexity", _source, name
    for name in recipe.evaluate.tasks:
        yield "evaluate.tasks", _task, name
    made = {BASELINE, *recipe.step_names}
    for step, name in zip(recipe.steps, recipe.step_names, strict=True):
        inputs = STEPS[step.kind].inputs(step)
        for source in sorted(inputs.data):
            yield f"step {name}", _source, source
        for model in sorted(inputs.models - made):
            yield f"step {name}", _directory, model
    texts = [name for name in recipe.evaluate.perplexity if name not in (TRACES, AUTO)]
    yield "evaluate.perplexity", lambda _: check_labels(texts, Source.parse), ""
    yield "evaluate.tasks", lambda _: check_labels(recipe.evaluate.tasks, Task.parse), ""


def measured_of(recipe: Recipe, name: str) -> EvaluateOptions:
    """What is measured of the step with this name."""
    named = dict(zip(recipe.step_names, recipe.steps, strict=True))
    step = named.get(name)
    if isinstance(step, ExportOptions) and not FORMATS[step.format].gives_logits:
        return measured_without_logits(recipe.evaluate)[0]
    return recipe.evaluate


def _directory(name: str) -> Path:
    return resolve(model_path(name), config_only=True)


def _source(name: str) -> Source | None:
    """A source; None for traces, which the run itself makes, and for what fits the model."""
    if name in (TRACES, AUTO):
        return None
    source = Source.parse(name)
    source.check()
    return source


def _task(name: str) -> Task:
    task = Task.parse(name)
    task.check()
    return task


def _fault(find: Callable[[str], Any], name: str) -> UsageError | None:
    try:
        find(name)
    except UsageError as error:
        return error
    return None
