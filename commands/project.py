"""The verbs about a recipe and the installation: run, demo, plan, recipe, targets, doctor."""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from ..console import console
from ..errors import EdgewrightError, UsageError, suggestion
from ..steps.places import Reads
from .common import directory_of_run, recipe_run, required
from .init_options import InitOptions
from .plan_inputs import PlanInputs
from .verb import Outcome, verb
from .verb_options import DemoOutput, RecipeFile, RunOptions, TargetDevice

__all__ = [
    "demo",
    "doctor",
    "init",
    "plan",
    "recipe",
    "recipe_schema",
    "run",
    "targets",
    "targets_show",
]

OTHER_GOAL = "no recipe was written: take another --goal, such as small, or a larger --target"
"""Advice on a goal whose result the device cannot run."""
QUICK = (
    "calibration.samples=32",
    "evaluate.limit=96",
    "evaluate.windows=32",
    "evaluate.latency.runs=3",
    "steps.distill.batch_size=16",
    "steps.distill.stages.0.steps=50",
    "steps.distill.stages.1.steps=15",
    "gate.limits.accuracy/reasoning.min_ratio=0.6",
)
"""What the demo changes in its recipe to be quick; a student that learned less may lose more."""


def _with_directory(given: dict[str, Any]) -> dict[str, Any]:
    """A run has a directory of its recipe's name, unless another is given."""
    return given if given.get("dry_run") else directory_of_run(given, "{}")


@verb("run", resumable=True, prepare=_with_directory)
def run(recipe: RecipeFile, options: RunOptions) -> Outcome:
    """Run a recipe: make every step, measure it, and record it in the ledger.

    Run the same command again to resume after an interruption.

    Examples:

        edgewright run demo --out runs/demo

        edgewright run demo --set model=/models/Qwen2.5-0.5B --set evaluate.limit=50
        --out runs/qwen
    """
    from ..pipeline.forecast import refuse
    from ..pipeline.recipe_file import load_recipe

    loaded = load_recipe(recipe, options.settings)
    if options.dry_run:
        from ..pipeline.plan import plan_recipe

        rows = plan_recipe(loaded)
        return Outcome({"target": loaded.target, "rows": rows}, "plan", lambda: refuse(rows))
    out = required(options.out, "--out", "give the directory of the run")
    return recipe_run(loaded, out, options.fresh)


@verb("demo", resumable=True)
def demo(output: DemoOutput) -> Outcome:
    """Run all steps on the built-in reasoning model of 7 M parameters.

    It takes less than three minutes on two cores; with --full, five to eight. It needs no network.
    The same as --full is `edgewright run demo`.

    Examples:

        edgewright demo

        edgewright demo --full --out runs/demo
    """
    from ..pipeline.recipe_file import builtin_recipe, load_recipe

    recipe = load_recipe(builtin_recipe("demo"), () if output.full else QUICK)
    return recipe_run(recipe, output.out, output.fresh)


@verb("init")
def init(options: InitOptions) -> Outcome:
    """Ask for model, device and goal; write a recipe with comments, and show its plan.

    Questions whose flags are given are not asked. The recipe is yours: read it and change it.

    Examples:

        edgewright init

        edgewright init --model builtin:tiny-reasoner --target jetson-orin-nano-8gb --goal small

        edgewright init --model /models/Qwen2.5-0.5B --target jetson-orin-nano-8gb --goal fast
        --data text:mine.txt --out fast.yaml
    """
    from .interview import answered

    out = options.out
    if out.exists() and not options.overwrite:
        raise UsageError(
            f"{out}: there is a recipe already", "give --out another name, or --overwrite"
        )
    draft = answered(options)
    from ..checkpoints.atomic_files import write_text
    from ..pipeline.forecast import refuse_result
    from ..pipeline.plan import plan_recipe

    rows = plan_recipe(draft.recipe)
    plan = {"recipe": str(out), "target": draft.target, "rows": rows}
    if any(row["refused"] for row in rows) or rows[-1]["fits"] is False:
        return Outcome(plan, "plan", lambda: refuse_result(rows, OTHER_GOAL))
    file = shlex.quote(str(out))
    write_text(out, draft.text(file))
    console.print(f"wrote {out}: read it, and change what you like", highlight=False)
    return Outcome(plan, "plan", then=f"edgewright run {file}")


@verb("plan")
def plan(
    what: Annotated[
        str,
        Reads(),
        typer.Argument(metavar="RECIPE|MODEL", help="a recipe, by file or name, or a model"),
    ],
    device: TargetDevice,
    inputs: PlanInputs,
) -> Outcome:
    """Predict what a recipe or a model needs, and how fast a device will run it.

    Only config.json is read, also of a hub id. Exit code 3 if the device cannot run what a step of
    the recipe makes, or can run the model in no precision.

    Examples:

        edgewright plan demo

        edgewright plan /models/Qwen2.5-3B --target jetson-orin-nano-8gb --context 4096

        edgewright plan Qwen/Qwen2.5-3B --target jetson-orin-nano-8gb --precision int4

        edgewright plan /models/Qwen2.5-3B --target all

        edgewright plan /models/Qwen2.5-3B --target jetson-agx-orin-64gb --draft student
        --draft-agreement 0.8
    """
    from ..pipeline.forecast import ALL_TARGETS, NO_TARGET, refuse, refuse_all
    from ..pipeline.prune_budget import prunable
    from ..pipeline.recipe_file import is_recipe

    planned = is_recipe(what)
    target, rows = (_recipe_rows if planned else _model_rows)(what, device.target, inputs)
    advice = [] if target else [NO_TARGET]
    contexts = [row["context"] for row in rows if "context" in row]
    if contexts and (shortest := min(contexts)) < inputs.context:
        advice.append(f"planned for {shortest:,} tokens, which is all that the model can read")
    advice += _with_draft(rows, what, target, inputs)
    load = {"target": target, "context": inputs.context, "batch": inputs.batch}
    found = {**load, "rows": rows, "advice": advice}
    if target is None or target == ALL_TARGETS:  # a survey of all devices refuses nothing
        return Outcome(found, "plan")
    if planned:
        return Outcome(found, "plan", lambda: refuse(rows))
    can_prune = partial(prunable, what, target)
    return Outcome(found, "plan", lambda: refuse_all(rows, what, target, can_prune))


Rows = list[dict[str, Any]]


def _model_rows(model: str, target: str | None, inputs: PlanInputs) -> tuple[str | None, Rows]:
    """The device, and the rows of a plan for a model."""
    from ..pipeline.forecast import ALL_TARGETS, plan_model
    from ..pipeline.recipe_file import recipe_names
    from ..targets import load_target

    if inputs.settings:
        raise UsageError(
            "--set changes a recipe, and this is the plan of a model",
            "leave it out; --context, --batch, --precision and --kv-cache change the plan",
        )
    if target and target != ALL_TARGETS:
        load_target(target)  # here, so that the hint below is not about a target
    cache = inputs.kv_cache or "float"
    try:
        rows = plan_model(model, target, inputs.context, inputs.batch, cache, inputs.precision)
    except UsageError as error:  # perhaps the name of a recipe was meant
        error.hint = f"{suggestion(model, recipe_names())}{error.hint}"
        raise
    return target, rows


def _recipe_rows(text: str, target: str | None, inputs: PlanInputs) -> tuple[str | None, Rows]:
    """The device, and the rows of a plan for a recipe."""
    if inputs.precision:
        raise UsageError(
            "--precision is for the plan of a model; a recipe says what it makes",
            "leave it out, or change the recipe: --set steps.NAME.precision=int4",
        )
    from ..pipeline.forecast import ALL_TARGETS

    if target == ALL_TARGETS:
        raise UsageError(
            "--target all is for the plan of a model; a recipe has one device",
            "give --target NAME; `edgewright targets` lists them",
        )
    if inputs.kv_cache:
        raise UsageError(
            "--kv-cache plans the export of a model, and a recipe has its own export step",
            "add --set steps.STEP.kv_cache=int8, with the name of the export step",
        )
    from ..pipeline.plan import plan_recipe
    from ..pipeline.recipe_file import load_recipe

    extra = [f"target={target}"] if target else []
    recipe = load_recipe(Path(text), [*inputs.settings, *extra])
    return recipe.target, plan_recipe(recipe, inputs.context, inputs.batch)


def _with_draft(
    rows: list[dict[str, Any]], model: str, target: str | None, inputs: PlanInputs
) -> list[str]:
    """Add the predictions of a draft model, if there is one, to a plan; returns what they mean."""
    if not inputs.draft:
        if inputs.draft_tokens or inputs.draft_agreement is not None:
            flags = "--draft-tokens and --draft-agreement"
            raise UsageError(f"{flags} need --draft", "name the draft model")
        return []
    from ..pipeline.draft_forecast import add_drafts, advice_of
    from ..pipeline.forecast import ALL_TARGETS
    from ..pipeline.recipe_file import is_recipe

    if target in (None, ALL_TARGETS) or is_recipe(model):
        raise UsageError(
            "--draft needs one model and one device", "give MODEL --target NAME --draft DRAFT"
        )
    add_drafts(rows, model, str(target), inputs, inputs.context, inputs.batch)
    return advice_of(rows)


@verb("recipe")
def recipe() -> Outcome:
    """List the recipes that ship with edgewright; print the schema of a recipe.

    Examples:

        edgewright recipe

        edgewright recipe schema > recipe.schema.json
    """
    from ..pipeline.recipe_file import shipped_recipes

    return Outcome(shipped_recipes(), "recipes", then="edgewright plan NAME")


@verb("schema")
def recipe_schema() -> Outcome:
    """Print the JSON Schema of a recipe, with which editors check and complete the YAML.

    Example:

        edgewright recipe schema > recipe.schema.json
    """
    from ..pipeline.recipe import Recipe

    return Outcome(Recipe.model_json_schema(by_alias=True))


@verb("targets")
def targets() -> Outcome:
    """List the devices that edgewright knows.

    Examples:

        edgewright targets

        edgewright targets show jetson-orin-nano-8gb
    """
    from ..targets.profile import list_targets, usable_bytes

    found = [target.model_dump(mode="json") for target in list_targets()]
    for shown, target in zip(found, list_targets(), strict=True):
        shown["memory"]["usable_bytes"] = usable_bytes(target)
    return Outcome(found, "targets")


@verb("show")
def targets_show(
    name: Annotated[str, typer.Argument(help="of a device; `edgewright targets` lists them")],
) -> Outcome:
    """Show one device: memory, bandwidth, power modes, software, rules and sources.

    Example:

        edgewright targets show jetson-orin-nano-8gb
    """
    from ..targets.profile import load_target

    return Outcome(load_target(name).model_dump(mode="json"), "target")


@verb("doctor")
def doctor() -> Outcome:
    """Check this installation: versions, extras, threads, disk space, and that each engine runs.

    Example:

        edgewright doctor
    """
    from .doctor import examine

    checks = examine()

    def judge() -> None:
        if not all(check["ok"] for check in checks if check["required"]):
            raise EdgewrightError(
                "something that edgewright needs is missing",
                "pip install edgewright, in a fresh environment",
            )

    return Outcome(checks, "doctor", judge, "edgewright demo")
