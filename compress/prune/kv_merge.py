"""Averages key/value heads: multi-head attention becomes grouped, and the KV cache shrinks.

The plain mean of a group is the start of Ainslie et al. 2023 (section 2.1). Two heads may do the
same in different coordinates, and then their mean is useless. So heads are first rotated towards
each other, which does not change what the model computes: values by an orthogonal matrix that the
output projection undoes, keys and queries by plane rotations that commute with rotary positions.
The idea is that of Jin et al. 2024, "Align attention heads before merging them". Here the rotations
are found in closed form from the second moments of the layer's input.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...models import Architecture, Layer, Linear, decoder_layers, weight_of

__all__ = [
    "Projections",
    "align",
    "average_heads",
    "input_moments",
    "mean_of_groups",
    "projections_of",
    "repeat_into",
    "store",
]

ROUNDS = 4
"""How often each head is rotated towards the mean of the others."""


Pairs = tuple[slice, slice]
"""The first and the second channels of all rotary pairs of a head."""


@dataclass
class Projections:
    """The attention projections of one layer. n is the input width, plus one column for biases.

    Attributes:
        q: [heads, head_dim, n].
        k: [kv_heads, head_dim, n].
        v: [kv_heads, head_dim, n].
        o: [width, heads, head_dim].
    """

    q: Tensor
    k: Tensor
    v: Tensor
    o: Tensor


def align(attention: Projections, moments: Tensor, groups: int, pairs: Pairs | None) -> Projections:
    """Rotate the key/value heads of every group towards each other, without a change of the layer.

    Args:
        attention: the projections, in float32 or better.
        moments: sum of x x^T [n, n] over the inputs x of the projections; where there are biases,
            x ends in 1.
        groups: number of groups; neighbouring key/value heads form a group.
        pairs: the channels of queries and keys that rotate together; None: leave these as they are,
            because a norm on keys does not commute with rotations.
    """
    q, k, v, o = (t.double().clone() for t in (attention.q, attention.k, attention.v, attention.o))
    size = len(k) // groups
    served = len(q) // len(k)
    moments = moments.double()
    for _ in range(ROUNDS):
        for head in range(len(k)):
            first = head // size * size
            others = [h for h in range(first, first + size) if h != head]
            queries = slice(head * served, (head + 1) * served)
            turn = _procrustes(v[others].mean(0) @ moments @ v[head].T)
            v[head] = turn @ v[head]
            o[:, queries] = o[:, queries] @ turn.T
            if pairs:
                angle = _angles(k[others].mean(0), k[head], moments, pairs)
                k[head] = _rotate(k[head], angle, pairs)
                q[queries] = _rotate(q[queries], angle, pairs)
    return Projections(*(t.to(attention.q) for t in (q, k, v, o)))


def _procrustes(cross: Tensor) -> Tensor:
    """The orthogonal R nearest to `cross` = target source^T: it minimises |target - R source|."""
    u, _, vh = torch.linalg.svd(cross)
    return u @ vh


def _angles(target: Tensor, source: Tensor, moments: Tensor, pairs: Pairs) -> Tensor:
    """The angle of every rotary pair that brings `source` nearest to `target`.

    Both are [d, n]; the angles are [pairs].
    """
    a = target @ moments
    b = source
    first, second = pairs
    along = (a[first] * b[first]).sum(-1) + (a[second] * b[second]).sum(-1)
    across = (a[second] * b[first]).sum(-1) - (a[first] * b[second]).sum(-1)
    return torch.atan2(across, along)


def _rotate(rows: Tensor, angle: Tensor, pairs: Pairs) -> Tensor:
    """Rotate the rotary pairs of `rows` [..., d, n] by `angle` [pairs]."""
    first, second = (rows[..., part, :] for part in pairs)
    cos, sin = angle.cos().unsqueeze(-1), angle.sin().unsqueeze(-1)
    turned = rows.clone()
    turned[..., pairs[0], :] = first * cos - second * sin
    turned[..., pairs[1], :] = first * sin + second * cos
    return turned


def mean_of_groups(heads: Tensor, groups: int) -> Tensor:
    """The mean of every group of heads: [kv_heads, head_dim, n] -> [groups, head_dim, n]."""
    return heads.view(groups, len(heads) // groups, *heads.shape[1:]).mean(1)


def average_heads(attention: Projections, groups: int) -> Projections:
    """Replace the key heads, and the value heads, of every group by their mean."""
    return Projections(
        attention.q,
        mean_of_groups(attention.k, groups),
        mean_of_groups(attention.v, groups),
        attention.o,
    )


def projections_of(state: Mapping[str, Tensor], layer: Layer) -> Projections:
    """Read the projections of a layer from a state dict; biases become a last column."""
    attention = layer.attention
    sizes = attention.sizes

    def rows(linear: Linear, count: int) -> Tensor:
        name = linear.stored_name
        weight, bias = state[layer.key(name)], state.get(layer.key(name, "bias"))
        whole = weight if bias is None else torch.cat([weight, bias.unsqueeze(-1)], dim=-1)
        return whole[linear.rows].float().view(count, sizes.head_dim, -1)

    o = state[layer.key(attention.o.name)]
    return Projections(
        rows(attention.q, sizes.heads),
        rows(attention.k, sizes.kv_heads),
        rows(attention.v, sizes.kv_heads),
        o.float().view(len(o), sizes.heads, sizes.head_dim),
    )


def store(state: dict[str, Tensor], layer: Layer, projections: Projections) -> None:
    """Write the projections of a layer back to the state dict, in its dtype."""
    attention = layer.attention
    parts = (
        (attention.q, projections.q),
        (attention.k, projections.k),
        (attention.v, projections.v),
    )
    together: dict[str, list[Tensor]] = {}
    for linear, rows in parts:
        together.setdefault(linear.stored_name, []).append(rows.flatten(0, 1))
    for name, rows in together.items():
        key, bias = layer.key(name), layer.key(name, "bias")
        flat = torch.cat(rows).to(state[key].dtype)
        width = state[key].shape[1]
        state[key] = flat[:, :width].contiguous()
        if bias in state:
            state[bias] = flat[:, width].contiguous()
    key = layer.key(attention.o.name)
    state[key] = projections.o.flatten(1).to(state[key].dtype).contiguous()


def repeat_into(module: nn.Module, state: Mapping[str, Tensor], layer: Layer, groups: int) -> None:
    """Copy the averaged projections into a layer of the original model.

    Each key/value head is repeated for all the heads that were averaged into it.

    Args:
        module: the decoder layer.
        state: tensors with averaged heads.
        layer: the description of the original layer.
        groups: key/value heads that are left.
    """
    attention = layer.attention
    sizes = attention.sizes
    seen: dict[str, int] = {}
    for linear in (attention.q, attention.k, attention.v, attention.o):
        name = linear.stored_name
        averaged = linear in (attention.k, attention.v)
        first = seen.get(name, 0)
        last = first + (groups * sizes.head_dim if averaged else linear.out_features)
        seen[name] = last
        for part in ("weight", "bias"):
            tensor = state.get(layer.key(name, part))
            if tensor is None:
                continue
            rows = tensor[first:last]
            if averaged:
                heads = rows.unflatten(0, (groups, sizes.head_dim))
                rows = heads.repeat_interleave(sizes.kv_heads // groups, dim=0).flatten(0, 1)
            module.get_submodule(name).get_parameter(part).data[linear.rows].copy_(rows)


@contextmanager
def input_moments(model: nn.Module, architecture: Architecture) -> Any:
    """While this lasts, add up second moments of the inputs of every layer's attention.

    Yields:
        For each layer the sum of x x^T [width + 1, width + 1]; x ends in 1.
    """
    moments: list[Tensor] = []
    handles = []
    modules = decoder_layers(model, architecture)
    for module, layer in zip(modules, architecture.layers, strict=True):
        reader = module.get_submodule(layer.attention.k.stored_name)
        width = weight_of(reader).shape[1]
        total = torch.zeros(width + 1, width + 1, device=next(module.parameters()).device)
        moments.append(total)
        handles.append(reader.register_forward_pre_hook(_moments_into(total)))
    try:
        yield moments
    finally:
        for handle in handles:
            handle.remove()


def _moments_into(total: Tensor) -> Any:
    """A hook that adds the second moments of a projection's inputs to `total`."""

    def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
        x = args[0].detach().flatten(0, -2).float()
        x = torch.cat([x, x.new_ones(len(x), 1)], dim=-1)
        total.addmm_(x.T, x)

    return hook
