"""Runs one step on its own, as a verb of the command line does."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ..benchmarks.report.model_card import write_card
from ..checkpoints.config import model_path, resolve
from ..checkpoints.hashing import (
    PROVENANCE,
    content_hash,
    read_provenance,
    weight_bytes,
    write_provenance,
)
from ..checkpoints.loading import pick_device
from ..checkpoints.sealed import Damaged
from ..console import IS_MAIN, console
from ..steps.context import StepContext, StepResult
from ..steps.own_text import OwnText
from ..steps.state import checkpoint_state
from ..steps.step import PlanContext, Step
from .defaults import calibration_for, with_training_data
from .fingerprint import fingerprint, step_dependencies
from .processes import require_one_process
from .prune_budget import shares_within
from .registry import STEPS
from .step_memory import run_within_memory

__all__ = ["run_verb"]


def run_verb(
    kind: str,
    options: BaseModel,
    model: str,
    out: Path,
    context: StepContext,
    fresh: bool = False,
    command: str = "",
) -> dict[str, Any]:
    """Run one step, or reuse a valid result.

    Args:
        kind: kind of the step.
        options: its options.
        model: directory, hub id or built-in model that it reads.
        out: the directory to make.
        context: calibration data, seed and device; names in the options are those of models.
        fresh: run it again in any case.
        command: what was typed, for the model card.

    Returns:
        `output`, `reused`, `seconds`, and `notes` and `details` of the step; of one that was run,
        also its memory, `predicted_bytes` and `peak_rss_bytes`.
    """
    step = STEPS[kind]
    if not step.multi_process:
        require_one_process(f"{kind} works")
    source = _resolve(model)
    context = replace(context, device=pick_device(context.device), resolve=_resolve, fresh=fresh)
    options = with_training_data(step, options, source, kind)
    own = OwnText(source, context.device, context.seed)
    calibration = calibration_for(step, options, context.calibration, own)
    context = replace(context, calibration=calibration)
    config = options.model_dump(mode="json", by_alias=True)
    fields = {
        "kind": kind,
        **step_dependencies(step, options, config, str(model), _hash_of, context),
    }
    old = {} if fresh else _recorded(out)
    same = old.get("fingerprint") == fingerprint(fields)
    if same and old.get("files") == content_hash(out, skip=PROVENANCE):
        return {"output": str(out), "reused": True, "seconds": 0.0, **old["result"]}
    begin = time.monotonic()
    result, memory = _run(step, options, source, out, replace(context, depends_on=fields))
    summary = {"notes": result.notes, "details": result.details}
    if IS_MAIN:  # of several processes, one writes
        write_card(out, _card_entry(kind, config, out, result.notes), step, model, source, command)
        _record(out, fields, summary)  # last: what it completes may be reused
    seconds = round(time.monotonic() - begin, 2)
    return {"output": str(out), "reused": False, "seconds": seconds, **memory, **summary}


def _run(
    step: Step[Any], options: BaseModel, source: Path, out: Path, context: StepContext
) -> tuple[StepResult, dict[str, int]]:
    """Run a step unless it would not fit into memory; see `run_within_memory`."""
    plan = PlanContext(
        step.kind,
        context.calibration,
        context.activation_budget,
        lambda name: checkpoint_state(_resolve(name)),
        partial(shares_within, target=None),
        context.proof,
    )
    settled = step.settled(options, checkpoint_state(source), plan)
    return run_within_memory(step, settled, source, out, context, plan)


def _recorded(out: Path) -> dict[str, Any]:
    """What an earlier run recorded in the output; empty if it cannot be relied on."""
    try:
        return read_provenance(out, older=False)
    except Damaged as error:
        console.print(f"  made again: {error}", highlight=False, markup=False)
        return {}


def _resolve(name: str) -> Path:
    return resolve(model_path(str(name)))


def _hash_of(name: str) -> str:
    return content_hash(_resolve(name))


def _card_entry(kind: str, config: dict[str, Any], out: Path, notes: list[str]) -> dict[str, Any]:
    """The entry of a ledger, as far as a model card needs it."""
    return {
        "name": out.name,
        "kind": kind,
        "config": config,
        "metrics": {"size_bytes": weight_bytes(out)},
        "notes": notes,
        "context": {},
    }


def _record(out: Path, fields: dict[str, Any], summary: dict[str, Any]) -> None:
    """Add fingerprint, file hash and result to the provenance, so that they can be reused."""
    made = {
        "fingerprint": fingerprint(fields),
        "files": content_hash(out, skip=PROVENANCE),
        "result": summary,
    }
    write_provenance(out, read_provenance(out) | made)
