"""Previews a prune step: what it would remove, and size and speed of the result."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..checkpoints.config import model_path, resolve
from ..compress.prune.options import PruneOptions
from ..compress.prune.runner import preview
from ..steps.context import StepContext
from ..steps.options import OWN
from ..steps.own_text import OwnText
from ..steps.state import checkpoint_state
from ..targets import load_target
from .forecast import device_row
from .format_choice import recommended_route
from .prune_budget import shares_within

__all__ = ["preview_prune"]

CONTEXT = 2048
"""Tokens of KV cache on the device."""


def preview_prune(
    options: PruneOptions,
    model: str,
    context: StepContext,
    target: str | None,
    precision: str = "int4",
) -> dict[str, Any]:
    """What a prune step would remove. Importance is measured; nothing is written.

    Args:
        options: options of the step.
        model: directory, hub id or built-in model.
        context: calibration data, seed and device.
        target: device to predict for.
        precision: precision of the weights on the device, if one is given.

    Returns:
        `rows` of a plan and `sizes`, before and after; importance, `pruned_heads`, `kept_layers`
        and `notes` of the step; and its `options`, with budgets turned into shares.

    Raises:
        EdgewrightError: what the step itself would refuse.
    """
    path = resolve(model_path(model))
    source = checkpoint_state(path)
    options = shares_within(options, source, target)
    own = OwnText(path, context.device, context.seed)
    wanted = context.calibration.resolved(own, needed=options.needs_calibration)
    scored = context.calibration.resolved(own, needed=False)  # a preview generates nothing
    found, small = preview(options, path, replace(context, calibration=scored))
    if wanted.own:
        found["notes"].append(
            f"the step itself will calibrate on {OWN}: the model's own answers to these prompts"
        )
    device = load_target(target) if target else None
    rows: list[dict[str, Any]] = []
    for name, each in (("before", source.architecture), ("after", small)):
        state = replace(source, architecture=each)
        if device:
            state = recommended_route(state, precision, device, CONTEXT).artifact
        rows.append(device_row(name, state, device, CONTEXT, 1))
    sizes = {"before": source.architecture.summary(), "after": small.summary()}
    shown = {"target": target, "rows": rows, "sizes": sizes}
    return {**shown, **found, "options": options.model_dump()}
