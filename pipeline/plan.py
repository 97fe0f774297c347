"""Plans a recipe: its cost on this machine and speed on the target, from config.json alone."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoints.config import model_path, resolve
from ..models import Architecture
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

EFFICIENCY = 0.28
"""Share of the speed of a plain matrix product on every core that the steps reach."""
CPU = Path("/proc/cpuinfo")
TILES = "amx_bf16"
"""Flag of a processor with matrix instructions for bfloat16."""
TILES_GAIN = 6.0
"""Their gain where matrices are wide, an estimate from two machines; see perf/RESULTS.md."""
WIDE = 512
"""Least width of a model that gains. The built-in model, which is 256 wide, does not."""
PRODUCT = 96
"""Rows of the matrices whose product is measured."""
SPEED_SECONDS = 0.1
"""How long the speed of a matrix product is measured."""


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
    exports = [
        getattr(one, "format", None) if one.kind == "export" else None for one in recipe.steps
    ]
    formats = [next(filter(None, exports[index:]), None) for index in range(len(exports) + 1)]
    rows = [device_row(BASELINE, states[BASELINE], target, context, batch, formats[0])]
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
        row = device_row(name, result, target, context, batch, formats[index + 1])
        row["ram_bytes"] = cost.ram_bytes
        if not fits(cost.ram_bytes):
            ways = alternatives(step, options, source, plan)
            row["smaller"] = [(way.advice, way.bytes) for way in ways]
        row["disk_bytes"] = result.weight_bytes + cost.workspace_bytes
        row["seconds"] = cost.operations / (
            EFFICIENCY * operations_per_second * _gain(source.architecture)
        )
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


def _gain(model: Architecture) -> float:
    """How much faster than float32 the steps compute, in 16 bits on a processor that has tiles."""
    try:
        flags = CPU.read_text()
    except OSError:  # no Linux
        return 1.0
    return TILES_GAIN if TILES in flags and model.hidden_size >= WIDE else 1.0


def _speed() -> float:
    """Floating-point operations per second of float32 matrix products on all cores.

    It is the best of many products that are too small for a second thread: threads that wait for
    each other make a large one fifteen times slower beside another process.
    """
    a = np.ones((PRODUCT, PRODUCT), dtype=np.float32)
    best, end = math.inf, time.perf_counter() + SPEED_SECONDS
    while (begin := time.perf_counter()) < end:
        np.matmul(a, a)
        best = min(best, time.perf_counter() - begin)
    return 2 * PRODUCT**3 / best * (os.cpu_count() or 1)
