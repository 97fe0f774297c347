"""Adds speculative decoding to the plan of a model: what a draft gains in each engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..checkpoints.config import model_path, quantization, resolve
from ..errors import UsageError
from ..steps.state import State, checkpoint_state
from ..targets import draft_engines, load_target, predict_draft
from ..targets.options import DraftOptions
from .format_choice import workload_of

__all__ = ["add_drafts", "advice_of"]


def add_drafts(
    rows: Sequence[dict[str, Any]],
    model: str,
    target_name: str,
    options: DraftOptions,
    context: int,
    batch: int,
) -> None:
    """Give each row of a plan `drafts`: one prediction for each engine that takes any draft.

    Args:
        rows: of `plan_model`, for one target.
        model: directory, hub id or built-in model.
        target_name: name or profile of the device.
        options: the draft, and how it is used.
        context: tokens of KV cache.
        batch: sequences at a time.

    Raises:
        UsageError: the target has no engine for drafts, or the draft does not suit the model.
    """
    target = load_target(target_name)
    engines = draft_engines(target)
    if not engines:
        raise UsageError(
            f"{target.name}: no engine that runs here takes a draft model",
            "leave --draft out, or plan for a Jetson",
        )
    large, small = (
        checkpoint_state(resolve(model_path(name), config_only=True))
        for name in (model, options.draft or model)
    )
    for row in rows:
        stored = replace(large, precision=row["precision"])
        row["drafts"] = [
            found.to_dict()
            for engine in engines
            if (
                found := predict_draft(
                    target,
                    (large.architecture, workload_of(stored, context, batch)),
                    (small.architecture, workload_of(_alike(small, row), context, batch)),
                    engine,
                    drafted=options.draft_tokens,
                    agreement=options.draft_agreement,
                )
            )
        ]


def _alike(draft: State, row: dict[str, Any]) -> State:
    """The draft in the precision of a row, or in its own if it is quantized."""
    if quantization(draft.architecture.config):
        return draft
    return replace(draft, precision=row["precision"])


def advice_of(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What the drafts of a plan mean, in sentences."""
    found = [draft for row in rows for draft in row.get("drafts", ())]
    if not found:
        return []
    lines = []
    if any(draft["assumed"] for draft in found):
        lines.append(
            f"the agreement of {found[0]['agreement']:.2f} is an assumption: measure "
            "top1_agreement with `edgewright bench DRAFT --reference MODEL`, and give "
            "--draft-agreement"
        )
    lines.append(
        "TensorRT-Edge-LLM takes drafts of its own kinds only (EAGLE-3, MTP), so the draft is "
        "predicted for engines that take any model with the same tokens"
    )
    return lines
