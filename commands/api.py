"""The verbs as Python functions: `import edgewright as ew; ew.quantize("model", out="int4")`.

Every function takes the arguments and options of the verb of its name. Options are keywords, and a
nested part of a recipe may be passed whole: `ew.distill(..., stages=[{"loss": "labels",
"steps": 300}])`. A function returns what the verb prints with `--json`. Errors are exceptions of
`edgewright.errors`; a gate that fails, or a plan that a device cannot run, is returned and not
raised.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import compress, deliver, measure, project
from .verb import Verb

__all__ = ["bench", "distill", "export", "gate", "plan", "prune", "quantize", "run"]


def _function(verb: Verb) -> Callable[..., Any]:
    def function(*arguments: Any, **options: Any) -> Any:
        return verb.call(*arguments, **options)

    lines = [f"    {parameter.name}: {parameter.help}" for parameter in verb.options]
    summary = (verb.__doc__ or "").partition("\n\n    edgewright")[0].partition("\n\nExample")[0]
    function.__doc__ = "\n".join([summary, "", "Args:", *lines])
    function.__name__ = function.__qualname__ = verb.name
    function.__signature__ = verb.signature  # pyright: ignore[reportFunctionMemberAccess]
    return function


plan = _function(project.plan)
prune = _function(compress.prune)
distill = _function(compress.distill)
quantize = _function(compress.quantize)
export = _function(deliver.export)
bench = _function(measure.bench)
gate = _function(measure.gate)
run = _function(project.run)
