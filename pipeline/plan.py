"""Plans a recipe: its cost on this machine and speed on the target, from config.json alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from ..checkpoints.config import model_path, resolve
from ..steps.memory_check import alternatives, fits
from ..steps.state import State, checkpoint_state
from ..steps.step import PlanContext
from ..targets import load_target
from .defaults import calibration_summary, with_default_data
from .forecast import device_row
from .named_inputs import check_inputs
from .prune_budget import shares_within
from .recipe import BASELINE, Recipe
from .registry import STEPS

__all__ = ["plan_context", "plan_recipe"]

EFFICIENCY = 0.4
"""Share of the speed of a plain matrix product that the steps reach."""


def plan_recipe(recipe: Recipe, context: int = 2048, batch: int = 1) -> list[dict[str, Any]]:
    """One row per step: size of the output, cost of the step here, and speed on the target.

    Args:
        recipe: the checked recipe.
        context: tokens of KV cache on the device.
        batch: sequences at a time on the device.

    Raises:
        UsageError: the target, or a model or data that the recipe names, does not exist.
        Refused: a step cannot be done to this model.
    """
    target = load_target(recipe.target) if recipe.target else None
    check_inputs(recipe)
    recipe = with_default_data(recipe, resolve(model_path(recipe.model), config_only=True))
    states = {BASELINE: _state(recipe.model)}
    rows = [device_row(BASELINE, states[BASELINE], target, context, batch)]
    operations_per_second = _speed()

    def state_of(name: str) -> State:
        return states[name] if name in states else _state(name)

    for index, (name, asked) in enumerate(zip(recipe.step_names, recipe.steps, strict=True)):
        step = STEPS[asked.kind]
        source = states[recipe.source_of(index)]
        plan = plan_context(recipe, name, state_of)
        options = step.settled(asked, source, plan)
        result = step.after(options, source, plan)
        states[name] = result
        cost = step.cost(options, source, result, plan)
        row = device_row(name, result, target, context, batch)
        row["ram_bytes"] = cost.ram_bytes
        if not fits(cost.ram_bytes):
            ways = alternatives(step, options, source, plan)
            row["smaller"] = [(way.advice, way.bytes) for way in ways]
        row["disk_bytes"] = result.weight_bytes + cost.workspace_bytes
        row["seconds"] = cost.operations / (EFFICIENCY * operations_per_second)
        row["calibration"] = calibration_summary(step, options, plan.calibration)
        rows.append(row)
    return rows


def plan_context(recipe: Recipe, name: str, state_of: Callable[[str], State]) -> PlanContext:
    """What a step of a recipe may ask while it is planned.

    Args:
        recipe: the recipe.
        name: name of the step.
        state_of: from the name of an earlier step, or of a model, to its state.
    """
    return PlanContext(
        name,
        recipe.calibration_data,
        recipe.activation_bytes,
        state_of,
        partial(shares_within, target=recipe.target),
        recipe.proof,
    )


def _state(model: str) -> State:
    """The state of a model, from its config.json alone."""
    return checkpoint_state(resolve(model_path(model), config_only=True))


def _speed() -> float:
    """Floating-point operations per second of a float32 matrix product on this machine."""
    a = np.ones((512, 512), dtype=np.float32)
    np.matmul(a, a)  # the first product starts threads
    begin = time.perf_counter()
    for _ in range(4):
        np.matmul(a, a)
    return 4 * 2 * 512**3 / (time.perf_counter() - begin)
