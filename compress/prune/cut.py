"""What stays of a model, and cutting its tensors down to that: pure functions on state dicts, whole or a layer at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...models import Family, Shape
from .experts import cut_experts

__all__ = ["Kept", "cut", "cut_layer", "head_channels"]


@dataclass(frozen=True)
class Kept:
    """What stays: lists have one entry a layer of the *uncut* model, also for layers that go."""

    heads: list[list[int]]
    """Query heads, ascending, equally many in every layer and in every key/value group that stays."""
    neurons: list[list[int]]
    """FFN neurons, ascending, equally many in every layer."""
    layers: list[int]
    experts: list[list[int]] = field(default_factory=list[list[int]])
    """Experts, ascending, equally many in every layer that has some and none in a dense one; empty where all stay."""

    def kv_heads(self, layer: int, shape: Shape) -> list[int]:
        """The key/value heads of a layer that still serve a query head."""
        return sorted({head // shape.group for head in self.heads[layer]})

    def sizes(self, shape: Shape) -> dict[str, int]:
        """The `heads`, `kv_heads` and `ffn` of every layer that stays, and the `experts` if some go."""
        first = self.layers[0]
        sizes = {
            "heads": len(self.heads[first]),
            "kv_heads": len(self.kv_heads(first, shape)),
            "ffn": len(self.neurons[first]),
        }
        return sizes | ({"experts": max(map(len, self.experts))} if self.experts else {})

    def routed(self, layer: int) -> list[int]:
        """The experts that a layer may still send tokens to; empty where none was removed."""
        return self.experts[layer] if self.experts else []

    def removed_heads(self, shape: Shape) -> list[list[int]]:
        """The query heads that go, a list a layer."""
        return [sorted(set(range(shape.num_attention_heads)) - set(kept)) for kept in self.heads]


def head_channels(heads: list[int], head_dim: int) -> Tensor:
    """Which channels of the queries, and of what the output projection reads, belong to these heads: int64 [heads * head_dim]."""
    return (torch.tensor(heads).unsqueeze(-1) * head_dim + torch.arange(head_dim)).flatten()


def cut(
    state: Mapping[str, Tensor], config: Mapping[str, Any], family: Family, shape: Shape, kept: Kept
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The physically smaller state dict and its config.json.

    Args:
        state: tensors of the whole model.
        config: its config.json.
        family: whose names to use.
        shape: its sizes.
        kept: what stays of it.
    """
    small = {k: v for k, v in state.items() if not k.startswith(f"{family.layers}.")}
    for new, old in enumerate(kept.layers):
        small |= cut_layer(state, family, shape, kept, old, new)
    return small, family.resized(config, **kept.sizes(shape), layers=kept.layers)


def cut_layer(
    state: Mapping[str, Tensor], family: Family, shape: Shape, kept: Kept, old: int, new: int
) -> dict[str, Tensor]:
    """The tensors of decoder layer `old` after the cut, named as those of layer `new`; others in `state` are left alone."""
    rows = head_channels(kept.heads[old], shape.head_dim)
    kv_rows = head_channels(kept.kv_heads(old, shape), shape.head_dim)
    ffn = torch.tensor(kept.neurons[old])
    along = {
        family.q: (rows, 0),
        family.k: (kv_rows, 0),
        family.v: (kv_rows, 0),
        family.o: (rows, 1),
        family.gate: (ffn, 0),
        family.up: (ffn, 0),
        family.down: (ffn, 1),
    }
    small: dict[str, Tensor] = {}
    start = family.key(old, "", "")[:-1]
    inside = {
        key.removeprefix(start): tensor for key, tensor in state.items() if key.startswith(start)
    }
    for key, tensor in cut_experts(inside, family, kept.routed(old)).items():
        name, _, part = key.rpartition(".")
        small[family.key(new, name, part)] = (
            _slice(tensor, part, *along[name]) if name in along else tensor
        )
    return small


def _slice(tensor: Tensor, part: str, index: Tensor, axis: int) -> Tensor:
    if part == "bias":
        return tensor if axis == 1 else tensor[index].clone()
    return tensor.index_select(axis, index)
