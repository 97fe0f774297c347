"""Runs a step unless it is predicted not to fit into memory, and measures what it takes."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..benchmarks.latency.worker import peak_rss, reset_peak_rss
from ..checkpoints.disk import require_space
from ..checkpoints.free_memory import resident_bytes
from ..steps.context import StepContext, StepResult
from ..steps.memory_check import alternatives, fits, require_memory, step_bytes
from ..steps.state import checkpoint_state
from ..steps.step import PlanContext, Step
from .processes import process_count

__all__ = ["run_within_memory"]

PREDICTED_SHARE = 0.5
"""The share of the predicted bytes that a result has in any case: some formats pack tables."""


def run_within_memory(
    step: Step[Any],
    options: Any,
    source: Path,
    out: Path,
    context: StepContext,
    plan: PlanContext,
    make_room: Callable[[], None] = lambda: None,
) -> tuple[StepResult, dict[str, int]]:
    """Run a step, unless more memory is predicted for it than is free.

    No step starts another process, so the peak is that of this process from here on. It is reset
    first: a step does not inherit the peak of an earlier one. Pages of mapped files count, which
    the system could take back.

    Args:
        step: the step.
        options: its settled options.
        source: directory of the model that it reads.
        out: the directory to make.
        context: see `Step.run`.
        plan: what the prediction is made from.
        make_room: frees what the process can do without; called if memory is short.

    Returns:
        The step's result; and `predicted_bytes` and `peak_rss_bytes` of the whole process.

    Raises:
        Refused: the step would not fit, or the disk is too small for its result.
    """
    state = checkpoint_state(source)
    size = step.after(options, state, plan).weight_bytes
    require_space(out, size, "the result, as predicted", PREDICTED_SHARE)
    needed = step_bytes(step, options, state, plan)
    if not fits(needed, context.device):
        make_room()
        gc.collect()
    if context.memory_check and process_count() == 1:  # else weights may be shared out
        what = step.kind if plan.name == step.kind else f"{plan.name} ({step.kind})"
        require_memory(what, needed, alternatives(step, options, state, plan), context.device)
    before = resident_bytes()
    reset_peak_rss()
    result = step.run(options, source, out, context)
    return result, {"predicted_bytes": round(before + needed), "peak_rss_bytes": peak_rss()}
