"""Finds how much a prune step must remove to meet a budget, from config.json alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from ..checkpoints.config import model_path, resolve
from ..compress.prune.options import Budget, PruneOptions
from ..compress.prune.sizes import sizes_after
from ..compress.prune.step import pruned_state
from ..errors import Refused, UsageError
from ..steps.state import State, checkpoint_state
from ..targets import load_target
from .forecast import device_row

__all__ = ["prunable", "shares_within"]

T = TypeVar("T", bound=PruneOptions)


def shares_within(options: T, source: State, target: str | None) -> T:
    """The options with the smallest equal shares of heads and FFN neurons that meet the budget.

    Args:
        options: prune options; without a budget they are returned as they are.
        source: the model before the cut.
        target: device that memory and speed are predicted for, unless the budget names one.

    Raises:
        UsageError: the budget limits memory or speed, and no device is named.
        Refused: the model meets the budget already, or the largest cut does not meet it.
    """
    budget = options.budget
    if budget is None:
        return options
    name = budget.target or target
    if name is None and (budget.memory_bytes or budget.decode_tok_s):
        raise UsageError(
            "a budget of memory or speed needs a device",
            "give --target, or a `target` in the recipe",
        )
    device = load_target(name) if name else None
    smallest: dict[str, Any] = {}
    tried: set[str] = set()
    for percent in range(100):
        cut = _with_share(options, budget, source, percent / 100)
        state = pruned_state(cut, source)
        sizes = json.dumps(state.architecture.config, sort_keys=True)
        if sizes in tried:
            continue
        tried.add(sizes)
        row = device_row("", replace(state, precision=budget.precision), device, budget.context, 1)
        if not _meets(budget, row):
            smallest = row
            continue
        if not percent:
            raise Refused(
                "within the budget as it is: nothing would be pruned "
                f"({_limited_values(budget, row)})",
                "tighten the budget",
            )
        return cut
    raise Refused(
        f"the budget cannot be met by removing {' and '.join(budget.over)}: "
        f"the smallest that is legal has {_limited_values(budget, smallest)}",
        "loosen it, remove layers as well, or quantize to fewer bits",
    )


def prunable(model: str, target: str, memory_bytes: int) -> bool:
    """Whether removing heads and neurons brings a model in INT4 to this memory on a device.

    Args:
        model: directory, hub id or built-in model.
        target: the device.
        memory_bytes: see `Budget`; whole megabytes count.
    """
    budget = Budget(memory_bytes=memory_bytes // 10**6 * 10**6)
    state = checkpoint_state(resolve(model_path(model), config_only=True))
    try:
        shares_within(PruneOptions(budget=budget), state, target)
    except (Refused, UsageError):
        return False
    return True


def _with_share(options: T, budget: Budget, source: State, share: float) -> T:
    """The options with this share of every part that the budget may cut, where that is legal."""
    shares = {part: share for part in budget.over if _is_legal(options, source, part, share)}
    return options.model_copy(update={"budget": None, **shares})


def _is_legal(options: PruneOptions, source: State, part: str, share: float) -> bool:
    """Whether this share of heads or of FFN neurons can be removed."""
    alone = {"budget": None, "heads": 0.0, "ffn": 0.0, part: share}
    try:
        sizes_after(options.model_copy(update=alone), source.architecture)
    except Refused:
        return False
    return True


def _meets(budget: Budget, row: Mapping[str, Any]) -> bool:
    """Whether a row of a plan is within every limit."""
    return (
        (budget.parameters is None or row["parameters"] <= budget.parameters)
        and (budget.memory_bytes is None or row["total_bytes"] <= budget.memory_bytes)
        and (budget.decode_tok_s is None or (row["decode_tok_s"] or 0) >= budget.decode_tok_s)
    )


def _limited_values(budget: Budget, row: Mapping[str, Any]) -> str:
    """The values of a row that the budget limits, for a message."""
    limits = {
        f"{row['parameters']:,} parameters": budget.parameters,
        f"{row.get('total_bytes', 0) / 1e6:,.0f} MB on the device": budget.memory_bytes,
        f"{row.get('decode_tok_s') or 0:.1f} tokens a second": budget.decode_tok_s,
    }
    return ", ".join(text for text, limit in limits.items() if limit is not None)
