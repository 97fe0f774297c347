"""What the verbs share: running one step or a whole recipe, and the gate's exit code.

Modules that import torch are imported inside the functions: that takes seconds, and `--help` must
be fast.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from rich.markup import escape

from ..console import console, visible
from ..errors import GateFailed, UsageError
from ..steps.options import Calibration, Execution
from .next_commands import after_run, after_step
from .verb import Outcome, command_line

if TYPE_CHECKING:
    from ..compress.prune.options import PruneOptions
    from ..pipeline.recipe import Recipe
    from ..steps.context import StepContext
    from .verb_options import Output

__all__ = [
    "conclude",
    "cut_plan",
    "directory_of_run",
    "prune_step",
    "recipe_run",
    "required",
    "step",
    "step_context",
]


def step_context(calibration: Calibration, execution: Execution, **settings: Any) -> StepContext:
    """The context of a step. The settings are fields of it that do not change its result."""
    from ..steps.context import CalibrationData, StepContext

    data = CalibrationData(**calibration.model_dump())
    settings["memory_check"] = execution.memory_check
    return StepContext(data, execution.seed, execution.device, **settings)


def step(
    kind: str, options: BaseModel, model: str, output: Output, context: StepContext
) -> Outcome:
    """Run one step and return its result."""
    from ..pipeline.verb import run_verb

    result = run_verb(kind, options, model, output.out, context, output.fresh, command_line())
    return Outcome(result, "step", then=after_step(kind, options, model, output.out))


def prune_step(
    options: PruneOptions, model: str, output: Output, target: str | None, context: StepContext
) -> Outcome:
    """Run a prune step with its budget turned into shares.

    Raises:
        Refused: the target cannot run the pruned model in INT4, or the budget cannot be met.
    """
    from ..checkpoints.config import model_path, resolve
    from ..compress.prune.step import pruned_state
    from ..pipeline.forecast import device_row, refuse
    from ..pipeline.format_choice import recommended_route
    from ..pipeline.prune_budget import shares_within
    from ..steps.state import checkpoint_state
    from ..targets import load_target

    source = checkpoint_state(resolve(model_path(model)))
    options = shares_within(options, source, target)
    if target:
        device, after = load_target(target), pruned_state(options, source)
        after = recommended_route(after, "int4", device).artifact
        refuse([device_row(f"{model}, pruned", after, device, 2048, 1)])
    return step("prune", options, model, output, context)


def cut_plan(
    options: PruneOptions, model: str, target: str | None, context: StepContext
) -> Outcome:
    """What a prune step would remove and keep; refused if the target cannot run the rest."""
    from ..pipeline.forecast import refuse
    from ..pipeline.prune_preview import preview_prune

    plan = preview_prune(options, model, context, target)
    return Outcome(plan, "cut", lambda: refuse(plan["rows"][1:]))


def recipe_run(recipe: Recipe, out: Path, fresh: bool) -> Outcome:
    """Run a recipe and return its ledger. A failed gate decides the exit code."""
    from ..pipeline.run import run_recipe

    ledger = run_recipe(recipe, out, command_line(), fresh)

    def judge() -> None:
        console.print(f"report: {out / 'report.html'} (ledger.json beside it)", highlight=False)
        if ledger.get("gate"):
            conclude(ledger["gate"])

    return Outcome(ledger, "ledger", judge, after_run(ledger, out))


def conclude(gate: Mapping[str, Any]) -> None:
    """Turn the result of a gate into the exit code.

    Raises:
        GateFailed: it failed, or was inconclusive under a policy that counts this as failed.
    """
    pair = f"{gate['candidate']} against {gate['baseline']}"
    if gate["verdict"] == "fail":
        raise GateFailed(f"the gate failed: {pair}", "the table shows which limit")
    if not gate["accepted"]:
        raise GateFailed(
            f"the gate is inconclusive, which its policy counts as failed: {pair}",
            "measure more samples, as the table says",
        )
    if gate["verdict"] == "inconclusive" and gate["inconclusive"] == "warn":
        console.print(
            f"[bold yellow]warning:[/] the gate is inconclusive: {escape(visible(pair))}; "
            "the table says how many samples would decide"
        )


def directory_of_run(given: Mapping[str, Any], pattern: str) -> dict[str, Any]:
    """What was given, with a directory in `runs` if none is: the pattern with the recipe's name.

    Raises:
        UsageError: the recipe is wrong, or its name is no name of a directory.
    """
    if given.get("out") is not None:
        return dict(given)
    from ..pipeline.recipe_file import load_recipe

    name = load_recipe(Path(given["recipe"]), given.get("set") or ()).name
    if Path(name).name != name or name == "..":
        raise UsageError(
            f"{given['recipe']}: `name: {name}` cannot name a directory in runs/",
            "give --out, or a name without slashes",
        )
    return {**given, "out": Path("runs") / pattern.format(name)}


def required(value: Path | None, flag: str, hint: str) -> Path:
    """A path that this use of a verb needs.

    Raises:
        UsageError: it is missing.
    """
    if value is None:
        raise UsageError(f"{flag} is missing", hint)
    return value
