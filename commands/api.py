"""The verbs as Python functions: `import edgewright as ew; ew.quantize("model", out="int4")`.

Every function takes the arguments and options of the verb of its name. Options are keywords, and a
nested part of a recipe may be passed whole: `ew.distill(..., stages=[{"loss": "labels",
"steps": 300}])`. A function returns what the verb prints with `--json`, as an object that a
notebook shows as tables (`results.py`). What goes wrong is an `EdgewrightError`, whose hint is in
its notes; a gate that fails, or a plan that a device cannot run, is returned and not raised.

The types are in `api.pyi`, which `python -m edgewright.docs.write_all` makes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from ..errors import EdgewrightError
from . import compress, deliver, measure, project
from .results import GateResult, Measurement, Plan, Result, Run, StepResult
from .verb import Verb

__all__ = ["bench", "distill", "export", "gate", "plan", "prune", "quantize", "run"]

R = TypeVar("R", bound=Result)


def _function(verb: Verb, kind: type[R]) -> Callable[..., R]:
    def function(*arguments: Any, **options: Any) -> R:
        try:
            outcome = verb.call(*arguments, **options)
        except EdgewrightError as error:
            if error.hint:
                error.add_note(error.hint)
            raise
        return kind(outcome.value, outcome.view)

    lines = [f"    {parameter.name}: {parameter.help}" for parameter in verb.options]
    summary = (verb.__doc__ or "").partition("\n\n    edgewright")[0].partition("\n\nExample")[0]
    function.__doc__ = "\n".join([summary, "", "Args:", *lines])
    function.__name__ = function.__qualname__ = verb.name
    function.__dict__["__signature__"] = verb.signature.replace(return_annotation=kind)
    return function


plan = _function(project.plan, Plan)
prune = _function(compress.prune, StepResult)
distill = _function(compress.distill, StepResult)
quantize = _function(compress.quantize, StepResult)
export = _function(deliver.export, StepResult)
bench = _function(measure.bench, Measurement)
gate = _function(measure.gate, GateResult)
run = _function(project.run, Run)
