"""Which heads, FFN neurons and layers stay, by their scores. Pure functions."""

from __future__ import annotations

from torch import Tensor

from ...errors import UsageError

__all__ = [
    "choose_heads",
    "choose_layers",
    "choose_neurons",
    "share_below",
]


def share_below(scores: Tensor, threshold: float) -> float:
    """The share of entries of `scores` [layers, n] below `threshold` times the mean of their layer.

    Scores of different layers have different scales; Michel et al. 2019 (section 4.1) normalise by
    layer for this reason. Every layer loses the same number: the threshold sets how many, and the
    scores of each layer decide which.
    """
    return float((scores < threshold * scores.mean(-1, keepdim=True)).float().mean())


def choose_heads(scores: Tensor, kv_heads: int, keep: int, keep_kv: int) -> list[list[int]]:
    """Keep the best groups of every layer, and the same number of query heads in each group.

    Args:
        scores: importance [layers, heads].
        kv_heads: key/value heads of the model.
        keep: query heads that stay, a multiple of `keep_kv`.
        keep_kv: key/value heads that stay: those whose query heads have the largest sum of scores.

    Returns:
        For each layer its query heads, ascending.
    """
    layers, heads = scores.shape
    group = heads // kv_heads
    grouped = scores.view(layers, kv_heads, group)
    best_groups = grouped.sum(-1).argsort(dim=-1, descending=True)[:, :keep_kv].sort(dim=-1).values
    best = grouped.argsort(dim=-1, descending=True)[..., : keep // keep_kv].sort(dim=-1).values
    return [
        [kv * group + head for kv in kept.tolist() for head in best[layer, kv].tolist()]
        for layer, kept in enumerate(best_groups)
    ]


def choose_neurons(scores: Tensor, keep: int) -> list[list[int]]:
    """Keep the best `keep` FFN neurons of each layer; `scores` [layers, intermediate_size]."""
    return scores.argsort(dim=-1, descending=True)[:, :keep].sort(dim=-1).values.tolist()


def choose_layers(scores: Tensor, remove: int) -> list[int]:
    """Remove the layers of least block influence. The first and the last layer always stay.

    Args:
        scores: block influence [layers].
        remove: number of layers to remove.

    Returns:
        The layers that stay, ascending.

    Raises:
        UsageError: the model cannot lose so many.
    """
    layers = len(scores)
    if not 0 <= remove <= max(layers - 2, 0):
        raise UsageError(
            f"layers {remove}: a model of {layers} layers can lose 0 to {max(layers - 2, 0)}",
            "remove fewer layers",
        )
    order = scores.clone()
    order[0] = order[-1] = float("inf")
    return sorted(order.argsort(descending=True)[: layers - remove].tolist())
