"""A large cut spread over several rounds: which cut to make in each of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ...errors import Refused, UsageError
from ...models import Family
from .options import PruneOptions
from .selection import choose_layers
from .sizes import merged_config, sizes_after

__all__ = ["spread"]

SHARES = {"heads": 0.0, "kv_heads": 0.0, "ffn": 0.0, "experts": 0.0}


def spread(
    options: PruneOptions, family: Family, config: Mapping[str, Any], rounds: int
) -> list[PruneOptions]:
    """The cuts of every round, each relative to what the round before it left; the last ends where `options` at once would.

    Heads, neurons and experts shrink by equal factors, layers by equal counts, as far as whole heads, multiples of 128 neurons and whole
    layers allow. A round in which these leave nothing to do is left out. Key/value heads are merged in the first round, sparsity
    comes with the last.

    Args:
        options: the cut to the final size, in shares.
        family: of the model.
        config: its config.json.
        rounds: how many.

    Raises:
        UsageError: nothing is to be removed, or a share or a count is out of range.
        Refused: the final size cannot be had.
    """
    if options.heads_threshold or options.ffn_threshold:
        raise UsageError(
            "a threshold fixes no final size to go to in rounds",
            "give shares (heads, ffn) or a budget",
        )
    if options.merge_kv is not None:
        config = merged_config(family, config, options.merge_kv)
    sizes = [_at(options, family, config, done / rounds) for done in range(rounds + 1)]
    cuts: list[PruneOptions] = []
    for number in range(1, rounds + 1):
        before, after = sizes[number - 1], sizes[number]
        extra = {
            "merge_kv": options.merge_kv if number == 1 else None,
            "sparsity": options.sparsity if number == rounds else None,
        }
        if before == after and not any(extra.values()):
            continue
        groups, ffn = after["kv_heads"] / before["kv_heads"], after["ffn"] / before["ffn"]
        shares = {
            "heads": 1 - after["heads"] / before["heads"] / groups,
            "kv_heads": 1 - groups,
            "ffn": 1 - ffn,
        }
        shares["experts"] = 1 - after["experts"] / before["experts"] if options.experts else 0.0
        cuts.append(
            options.model_copy(
                update={**shares, "layers": before["layers"] - after["layers"], **extra}
            )
        )
    if not cuts:
        raise UsageError(
            "nothing to prune in any round",
            "give larger shares of `heads` or `ffn`, more `layers`, or `sparsity`",
        )
    return cuts


def _at(
    options: PruneOptions, family: Family, config: Mapping[str, Any], done: float
) -> dict[str, int]:
    """The sizes when a share `done` of the way, in [0, 1], lies behind: all factors are taken to that power."""
    layers = family.shape(config).num_hidden_layers
    choose_layers(torch.zeros(layers), options.layers)  # refuses a count that is out of range
    sizes = sizes_after(options, family, config)
    if done < 1:
        sizes = sizes_after(options.model_copy(update=SHARES), family, config)
        for name in SHARES:
            share = 1 - (1 - getattr(options, name)) ** done
            try:
                partly = sizes_after(
                    options.model_copy(update={**SHARES, name: share}), family, config
                )
            except Refused:
                continue  # so little that it rounds to nothing yet
            groups, served = (
                min(a, b) for a, b in zip(_groups(sizes), _groups(partly), strict=True)
            )
            sizes = {name: min(size, partly[name]) for name, size in sizes.items()} | {
                "heads": groups * served,
                "kv_heads": groups,
            }
    return {**sizes, "layers": layers - round(options.layers * done)}


def _groups(sizes: Mapping[str, int]) -> tuple[int, int]:
    """Key/value heads, and the query heads that each of them serves."""
    return sizes["kv_heads"], sizes["heads"] // sizes["kv_heads"]
