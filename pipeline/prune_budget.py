"""How much a prune step removes when it is given a budget and not shares, from config.json alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

import torch

from ..compress.prune.options import Budget, PruneOptions
from ..compress.prune.selection import choose_layers
from ..compress.prune.sizes import merged_config, sizes_after
from ..errors import Refused, UsageError
from ..models import family_of
from ..targets import load_target
from .forecast import State, device_row

__all__ = ["after_cut", "fitted"]

T = TypeVar("T", bound=PruneOptions)


def after_cut(options: PruneOptions, source: State) -> State:
    """The model after a cut, by the functions that decide how much is cut; a threshold counts as if nothing scored below it."""
    family, config = family_of(source.config), dict(source.config)
    if options.merge_kv is not None:
        config = merged_config(family, config, options.merge_kv)
    layers = choose_layers(torch.zeros(family.shape(config).num_hidden_layers), options.layers)
    return replace(
        source, config=family.resized(config, **sizes_after(options, family, config), layers=layers)
    )


def fitted(options: T, source: State, target: str | None) -> T:
    """The same options with the budget replaced by the least shares of heads and FFN neurons, equal ones, that meet it.

    Args:
        options: with a budget.
        source: the model as it is before the cut.
        target: device for which memory and speed are predicted, unless the budget names one.

    Raises:
        UsageError: memory or speed is limited and no device is named.
        Refused: nothing has to go, or all that may go is not enough.
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
    best: dict[str, Any] = {}
    tried: set[str] = set()
    for percent in range(100):
        shares = {
            part: share
            for part in budget.over
            if (share := _legal(options, source, part, percent / 100)) is not None
        }
        chosen = options.model_copy(update={"budget": None, **shares})
        state = after_cut(chosen, source)
        if json.dumps(state.config, sort_keys=True) in tried:
            continue
        tried.add(json.dumps(state.config, sort_keys=True))
        row = device_row("", replace(state, precision=budget.precision), device, budget.context, 1)
        if _within(budget, row):
            if not percent:
                raise Refused(
                    f"within the budget as it is: nothing would be pruned ({_against(budget, row)})",
                    "tighten the budget",
                )
            return chosen
        best = row
    raise Refused(
        f"the budget cannot be met by removing {' and '.join(budget.over)}: the smallest that is legal has {_against(budget, best)}",
        "loosen it, remove layers as well, or quantize to fewer bits",
    )


def _legal(options: PruneOptions, source: State, part: str, share: float) -> float | None:
    """The share if it can be removed of this part, else None."""
    family = family_of(source.config)
    try:
        sizes_after(
            options.model_copy(update={"budget": None, "heads": 0.0, "ffn": 0.0, part: share}),
            family,
            source.config,
        )
    except Refused:
        return None
    return share


def _within(budget: Budget, row: Mapping[str, Any]) -> bool:
    return (
        (budget.parameters is None or row["parameters"] <= budget.parameters)
        and (budget.memory_bytes is None or row["total_bytes"] <= budget.memory_bytes)
        and (budget.decode_tok_s is None or (row["decode_tok_s"] or 0) >= budget.decode_tok_s)
    )


def _against(budget: Budget, row: Mapping[str, Any]) -> str:
    said = {
        f"{row['parameters']:,} parameters": budget.parameters,
        f"{row.get('total_bytes', 0) / 1e6:,.0f} MB on the device": budget.memory_bytes,
        f"{row.get('decode_tok_s') or 0:.1f} tokens a second": budget.decode_tok_s,
    }
    return ", ".join(text for text, limit in said.items() if limit is not None)
