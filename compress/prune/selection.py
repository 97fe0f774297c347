"""Choosing what stays: how many, by counts that load and run everywhere, and which, by score. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from ...errors import Refused, UsageError
from ...models import AttentionSizes

__all__ = [
    "choose_heads",
    "choose_layers",
    "choose_neurons",
    "head_counts",
    "neuron_count",
    "share_below",
]


def head_counts(
    sizes: AttentionSizes,
    heads: float,
    kv_heads: float,
    accepts: Callable[[int], bool],
    multiple: int = 128,
) -> tuple[int, int]:
    """How many query heads and key/value heads stay, the same number of query heads in every group.

    Args:
        sizes: of the attention of every layer.
        heads: share of the query heads to remove from every group, in [0, 1). In multi-head attention, where every query
            head has its own key/value head, the two go together.
        kv_heads: share of the key/value heads to remove, each with all of its query heads, in [0, 1).
        accepts: whether stock loaders accept a number of query heads (`Architecture.accepts_heads`).
        multiple: prefer counts for which heads * head_dim divides by this (INT4 kernels need it), if one is a step away.

    Raises:
        UsageError: a share is not in [0, 1).
        Refused: a share is nearer to nothing or to everything than to any legal count; the message names the nearest.
    """
    _check_share("heads", heads)
    _check_share("kv_heads", kv_heads)
    if sizes.group == 1 and heads:
        if kv_heads:
            raise UsageError(
                "heads and kv_heads: in multi-head attention every query head has its own key/value head, so they are one thing",
                "give one of them",
            )
        return head_counts(sizes, 0.0, heads, accepts, multiple)
    if kv_heads and sizes.kv_heads == 1:
        raise Refused(
            "the only key/value head cannot be removed",
            "remove query heads (--heads) or FFN neurons (--ffn)",
        )
    groups = range(1, sizes.kv_heads) if kv_heads else [sizes.kv_heads]
    each = range(1, sizes.group) if heads else [sizes.group]
    legal = [(m, n) for m in groups for n in each if accepts(m * n)]
    if not legal:
        raise Refused(
            f"no count below {sizes.heads} query heads would load with stock transformers",
            "prune the FFN instead (--ffn)",
        )
    wanted = (sizes.kv_heads * (1 - kv_heads), sizes.group * (1 - heads))

    def miss(count: tuple[int, int]) -> tuple[float, int]:
        return abs(count[0] - wanted[0]) / sizes.kv_heads + abs(
            count[1] - wanted[1]
        ) / sizes.group, -count[0] * count[1]

    best = min(legal, key=miss)
    if kv_heads:
        _check_nearest(
            "key/value heads",
            kv_heads,
            sizes.kv_heads,
            best[0],
            sorted({m for m, _ in legal}),
        )
    if heads:
        _check_nearest(
            "query heads of a group", heads, sizes.group, best[1], sorted({n for _, n in legal})
        )
    aligned = [count for count in legal if count[0] * count[1] * sizes.head_dim % multiple == 0]
    near = min(aligned, key=miss, default=best)
    if abs(near[0] - best[0]) <= 1 and abs(near[1] - best[1]) <= 1:
        best = near
    return best[0] * best[1], best[0]


def neuron_count(width: int, ratio: float, multiple: int = 128) -> int:
    """How many FFN neurons stay: a multiple of `multiple` where the layer is wider than that.

    Raises:
        UsageError: the share is not in [0, 1).
        Refused: it is nearer to nothing or to everything than to any legal width; the message names the nearest.
    """
    _check_share("ffn", ratio)
    if not ratio:
        return width
    legal = range(multiple, width, multiple) or range(1, width)
    best = min(legal, key=lambda n: (abs(n - width * (1 - ratio)), -n))
    _check_nearest("FFN neurons", ratio, width, best, legal)
    return best


def _check_share(name: str, ratio: float) -> None:
    if not 0 <= ratio < 1:
        raise UsageError(
            f"{name} {ratio}: not a share in [0, 1)", "give the share to remove, such as 0.25"
        )


def _check_nearest(what: str, ratio: float, total: int, best: int, legal: Sequence[int]) -> None:
    """Refuse a share that rounds to nothing removed or to nothing kept."""
    wanted = total * (1 - ratio)
    miss = abs(best - wanted)
    if total - wanted < miss:
        raise Refused(
            f"{ratio:.3g} of the {total} {what} rounds to none: nothing would be pruned",
            f"the least that can go is {1 - max(legal) / total:.3g} ({total} -> {max(legal)})",
        )
    if wanted < miss:
        raise Refused(
            f"{ratio:.3g} of the {total} {what} rounds to all of them",
            f"the most that can go is {1 - min(legal) / total:.3g} ({total} -> {min(legal)})",
        )


def share_below(scores: Tensor, threshold: float) -> float:
    """The share of the entries of `scores` [layers, n] that are less than `threshold` times the mean of their layer.

    Scores of different layers have different scales (Michel et al. 2019, section 4.1, normalise by layer for this reason), and
    every layer loses equally many: so the threshold fixes how many go, and the scores of each layer which.
    """
    return float((scores < threshold * scores.mean(-1, keepdim=True)).float().mean())


def choose_heads(scores: Tensor, kv_heads: int, keep: int, keep_kv: int) -> list[list[int]]:
    """Keep the best groups of every layer, and in each of them the best query heads, equally many.

    Args:
        scores: importance [layers, heads].
        kv_heads: key/value heads of the model.
        keep: query heads that stay, a multiple of `keep_kv`.
        keep_kv: key/value heads that stay: those whose query heads matter most together.
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
    """Keep all but the `remove` layers with the least block influence [layers]; the first and last layer always stay."""
    layers = len(scores)
    if not 0 <= remove <= max(layers - 2, 0):
        raise UsageError(
            f"layers {remove}: a model of {layers} layers can lose 0 to {max(layers - 2, 0)}",
            "remove fewer layers",
        )
    order = scores.clone()
    order[0] = order[-1] = float("inf")
    return sorted(order.argsort(descending=True)[: layers - remove].tolist())
