"""A large cut spread over several rounds: which cut to make in each of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ...errors import UsageError
from ...models import Family, Shape
from .choose import choose_layers, choose_neurons, kept_heads
from .runner import PruneOptions

__all__ = ["spread"]


@dataclass(frozen=True)
class _Sizes:
    heads: int
    neurons: int
    layers: int


def spread(options: PruneOptions, family: Family, config: Mapping[str, Any], rounds: int) -> list[PruneOptions]:
    """The cuts of every round, each relative to what the round before it left; the last ends where `options` at once would.

    Heads and neurons shrink by equal factors, layers by equal counts, as far as whole heads, multiples of 128 neurons and whole
    layers allow. A round in which these leave nothing to do is left out. Sparsity comes with the last.

    Args:
        options: the cut to the final size.
        family: of the model.
        config: its config.json.
        rounds: how many.

    Raises:
        UsageError: nothing is to be removed, or a share or a count is out of range.
        Refused: the final size cannot be had.
    """
    shape = family.shape(config)
    sizes = [_at(options, family, config, shape, done / rounds) for done in range(rounds + 1)]
    cuts: list[PruneOptions] = []
    for number in range(1, rounds + 1):
        before, after, last = sizes[number - 1], sizes[number], number == rounds
        if before == after and not (last and options.sparsity):
            continue
        shares = {"heads": 1 - after.heads / before.heads, "ffn": 1 - after.neurons / before.neurons}
        sparsity = options.sparsity if last else None
        cuts.append(options.model_copy(update={**shares, "layers": before.layers - after.layers, "sparsity": sparsity}))
    if not cuts:
        raise UsageError("nothing to prune in any round", "give larger shares of `heads` or `ffn`, more `layers`, or `sparsity`")
    return cuts


def _at(options: PruneOptions, family: Family, config: Mapping[str, Any], shape: Shape, done: float) -> _Sizes:
    """The sizes when a share `done` of the way, in [0, 1], lies behind: all factors are taken to that power."""
    heads_share, ffn_share = 1 - (1 - options.heads) ** done, 1 - (1 - options.ffn) ** done
    heads = kept_heads(shape, heads_share, lambda n: family.accepts_heads(config, n))
    wanted = shape.num_attention_heads * (1 - heads_share)
    if done < 1 and shape.num_attention_heads - wanted < wanted - heads:
        heads = shape.num_attention_heads  # `kept_heads` always removes some; while that is too much, remove none yet
    neurons = len(choose_neurons(torch.zeros(1, shape.intermediate_size), ffn_share)[0])
    choose_layers(torch.zeros(shape.num_hidden_layers), options.layers)  # refuses a count that is out of range
    return _Sizes(heads, neurons, shape.num_hidden_layers - round(options.layers * done))
