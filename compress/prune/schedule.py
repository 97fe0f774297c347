"""Divides a large cut into several rounds, for `edgewright iterate`."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ...errors import Refused, UsageError
from ...models import Architecture
from .options import PruneOptions
from .selection import choose_layers
from .sizes import merged_kv, sizes_after

__all__ = ["spread"]

SHARES = {"heads": 0.0, "kv_heads": 0.0, "ffn": 0.0, "experts": 0.0}


def spread(options: PruneOptions, architecture: Architecture, rounds: int) -> list[PruneOptions]:
    """The prune options of every round, which together reach the final size of `options`.

    Each is relative to the result of the round before. Heads, neurons and experts shrink by equal
    factors and layers by equal counts, as far as whole heads, multiples of 128 neurons and whole
    layers allow. A round that would remove nothing is left out. Key/value heads are averaged in the
    first round; sparsity comes in the last.

    Args:
        options: the whole cut, in shares.
        architecture: of the model.
        rounds: number of rounds.

    Raises:
        UsageError: nothing is to be removed, or a share or a count is out of range.
        Refused: no legal count is near the final size.
    """
    if options.heads_threshold or options.ffn_threshold:
        raise UsageError(
            "a threshold fixes no final size to go to in rounds",
            "give shares (heads, ffn) or a budget",
        )
    if options.merge_kv is not None:
        architecture = merged_kv(architecture, options.merge_kv)
    sizes = [_at(options, architecture, done / rounds) for done in range(rounds + 1)]
    cuts: list[PruneOptions] = []
    for number in range(1, rounds + 1):
        before = sizes[number - 1]
        after = sizes[number]
        extra = {
            "merge_kv": options.merge_kv if number == 1 else None,
            "sparsity": options.sparsity if number == rounds else None,
        }
        if before == after and not any(extra.values()):
            continue
        cuts.append(_cut_between(options, before, after).model_copy(update=extra))
    if not cuts:
        raise UsageError(
            "nothing to prune in any round",
            "give larger shares of `heads` or `ffn`, more `layers`, or `sparsity`",
        )
    return cuts


def _cut_between(
    options: PruneOptions, before: Mapping[str, int], after: Mapping[str, int]
) -> PruneOptions:
    """The options with the shares and layers that cut a model of sizes `before` to `after`."""
    groups = after["kv_heads"] / before["kv_heads"]
    shares = {
        "heads": 1 - after["heads"] / before["heads"] / groups,
        "kv_heads": 1 - groups,
        "ffn": 1 - after["ffn"] / before["ffn"],
    }
    shares["experts"] = 1 - after["experts"] / before["experts"] if options.experts else 0.0
    return options.model_copy(update={**shares, "layers": before["layers"] - after["layers"]})


def _at(options: PruneOptions, architecture: Architecture, done: float) -> dict[str, int]:
    """The sizes after a share `done` in [0, 1] of the cut: every factor to that power."""
    layers = len(architecture.layers)
    choose_layers(torch.zeros(layers), options.layers)  # refuses a count that is out of range
    sizes = sizes_after(options, architecture)
    if done < 1:
        sizes = sizes_after(options.model_copy(update=SHARES), architecture)
        for name in SHARES:
            share = 1 - (1 - getattr(options, name)) ** done
            try:
                partly = sizes_after(
                    options.model_copy(update={**SHARES, name: share}), architecture
                )
            except Refused:
                continue  # so far the share rounds to nothing
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
