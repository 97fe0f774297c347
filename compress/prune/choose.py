"""Choosing what stays: pure functions on score tensors."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ...errors import Refused, UsageError
from ...models import Shape

__all__ = ["choose_heads", "choose_layers", "choose_neurons", "kept_heads"]


def kept_heads(shape: Shape, ratio: float, accepts: Callable[[int], bool], multiple: int = 128) -> int:
    """How many query heads stay when about `ratio` of them go, the same number in every KV group.

    Args:
        shape: sizes of the model.
        ratio: share to remove, in [0, 1).
        accepts: whether stock loaders accept a number of heads (`Family.accepts_heads`).
        multiple: prefer counts for which heads * head_dim divides by this (INT4 kernels need it), if one is near.

    Raises:
        UsageError: the ratio is not in [0, 1).
        Refused: every key/value head serves one query head, or no smaller count can be loaded.
    """
    if not 0 <= ratio < 1:
        raise UsageError(f"heads {ratio}: not a share in [0, 1)", "give the share of heads to remove, such as 0.25")
    if ratio == 0:
        return shape.num_attention_heads
    if shape.group == 1:
        raise Refused(
            "every key/value head serves one query head (multi-head attention): query heads alone cannot be removed",
            "prune the FFN instead (--ffn), or start from a GQA model",
        )
    counts = [n * shape.num_key_value_heads for n in range(1, shape.group) if accepts(n * shape.num_key_value_heads)]
    if not counts:
        raise Refused(
            f"no count below {shape.num_attention_heads} query heads would load with stock transformers",
            "prune the FFN instead (--ffn)",
        )
    wanted = shape.num_attention_heads * (1 - ratio)
    best = min(counts, key=lambda n: (abs(n - wanted), -n))
    aligned = [n for n in counts if n * shape.head_dim % multiple == 0]
    near = min(aligned, key=lambda n: (abs(n - wanted), -n), default=best)
    return near if abs(near - best) <= shape.num_key_value_heads else best


def choose_heads(scores: Tensor, kv_heads: int, keep: int) -> list[list[int]]:
    """Keep the best query heads of every KV group, equally many in each group and layer.

    Args:
        scores: importance [layers, heads].
        kv_heads: key/value heads, all of which stay.
        keep: query heads that stay, a multiple of `kv_heads`.
    """
    layers, heads = scores.shape
    group = heads // kv_heads
    ranked = scores.view(layers, kv_heads, group).argsort(dim=-1, descending=True)[..., : keep // kv_heads].sort(dim=-1).values
    offset = (torch.arange(kv_heads) * group).view(1, -1, 1)
    return (ranked + offset).flatten(1).tolist()


def choose_neurons(scores: Tensor, ratio: float, multiple: int = 128) -> list[list[int]]:
    """Keep the best FFN neurons of each layer; the kept width is rounded to `multiple` where the layer is wide enough.

    Args:
        scores: importance [layers, intermediate_size].
        ratio: share to remove, in [0, 1).
        multiple: of which the width shall be.
    """
    if not 0 <= ratio < 1:
        raise UsageError(f"ffn {ratio}: not a share in [0, 1)", "give the share of neurons to remove, such as 0.25")
    width = scores.shape[1]
    keep = round(width * (1 - ratio))
    if ratio and width >= multiple:
        keep = max(multiple, round(keep / multiple) * multiple)
    return scores.argsort(dim=-1, descending=True)[:, : max(1, keep)].sort(dim=-1).values.tolist()


def choose_layers(scores: Tensor, remove: int) -> list[int]:
    """Keep all but the `remove` layers with the least block influence [layers]; the first and last layer always stay."""
    layers = len(scores)
    if not 0 <= remove <= max(layers - 2, 0):
        raise UsageError(f"layers {remove}: a model of {layers} layers can lose 0 to {max(layers - 2, 0)}", "remove fewer layers")
    order = scores.clone()
    order[0] = order[-1] = float("inf")
    return sorted(order.argsort(descending=True)[: layers - remove].tolist())
