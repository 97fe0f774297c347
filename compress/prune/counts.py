"""How many heads, FFN neurons and experts stay: the counts nearest to a share that load everywhere.

Pure functions, without torch: recipes and plans ask them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ...errors import Refused, UsageError
from ...models import AttentionSizes, ExpertsFFN

__all__ = ["head_counts", "kept_experts", "neuron_count"]


def head_counts(
    sizes: AttentionSizes,
    heads: float,
    kv_heads: float,
    accepts: Callable[[int], bool],
    multiple: int = 128,
) -> tuple[int, int]:
    """How many query heads and key/value heads stay; every group keeps the same number of heads.

    Args:
        sizes: of the attention of every layer.
        heads: share of the query heads to remove from every group, in [0, 1). In multi-head
            attention every query head has its own key/value head, and the two are removed together.
        kv_heads: share of the key/value heads to remove, each with its query heads, in [0, 1).
        accepts: whether stock loaders accept a number of heads (`Architecture.accepts_heads`).
        multiple: prefer counts for which this divides heads * head_dim, if one is a step away;
            INT4 kernels need it.

    Returns:
        Query heads and key/value heads of every layer.

    Raises:
        UsageError: a share is not in [0, 1).
        Refused: a share is nearer to none or to all than to any legal count. The message names the
            nearest share that works.
    """
    _check_heads_can_go(sizes, heads, kv_heads)
    if sizes.group == 1 and heads:
        return head_counts(sizes, 0.0, heads, accepts, multiple)
    legal = _legal_head_counts(sizes, heads, kv_heads, accepts)
    wanted = (sizes.kv_heads * (1 - kv_heads), sizes.group * (1 - heads))

    def miss(count: tuple[int, int]) -> tuple[float, int]:
        """How far a count is from the wanted one; of two equally far, the larger wins."""
        groups_off = abs(count[0] - wanted[0]) / sizes.kv_heads
        return groups_off + abs(count[1] - wanted[1]) / sizes.group, -count[0] * count[1]

    best = min(legal, key=miss)
    if kv_heads:
        legal_kv_heads = sorted({m for m, _ in legal})
        _check_nearest("key/value heads", kv_heads, sizes.kv_heads, best[0], legal_kv_heads)
    if heads:
        legal_heads = sorted({n for _, n in legal})
        _check_nearest("query heads of a group", heads, sizes.group, best[1], legal_heads)
    aligned = [count for count in legal if count[0] * count[1] * sizes.head_dim % multiple == 0]
    near = min(aligned, key=miss, default=best)
    if abs(near[0] - best[0]) <= 1 and abs(near[1] - best[1]) <= 1:
        best = near
    return best[0] * best[1], best[0]


def _check_heads_can_go(sizes: AttentionSizes, heads: float, kv_heads: float) -> None:
    """Refuse shares out of [0, 1), and shares of heads that the attention rules out."""
    _check_share("heads", heads)
    _check_share("kv_heads", kv_heads)
    if sizes.group == 1 and heads and kv_heads:
        raise UsageError(
            "heads and kv_heads: in multi-head attention every query head has its own "
            "key/value head, so they are one thing",
            "give one of them",
        )
    if kv_heads and sizes.kv_heads == 1:
        raise Refused(
            "the only key/value head cannot be removed",
            "remove query heads (--heads) or FFN neurons (--ffn)",
        )


def _legal_head_counts(
    sizes: AttentionSizes, heads: float, kv_heads: float, accepts: Callable[[int], bool]
) -> list[tuple[int, int]]:
    """All counts that load: key/value heads, and the query heads that each of them serves.

    A count is below the original where a share of it is to be removed, else equal to the original.

    Raises:
        Refused: no such count loads with stock transformers.
    """
    groups = range(1, sizes.kv_heads) if kv_heads else [sizes.kv_heads]
    each = range(1, sizes.group) if heads else [sizes.group]
    legal = [(m, n) for m in groups for n in each if accepts(m * n)]
    if not legal:
        raise Refused(
            f"no count below {sizes.heads} query heads would load with stock transformers",
            "prune the FFN instead (--ffn)",
        )
    return legal


def neuron_count(width: int, ratio: float, multiple: int = 128) -> int:
    """How many FFN neurons stay: a multiple of `multiple`, if the layer is wider than that.

    Args:
        width: neurons of the uncut layer.
        ratio: share to remove, in [0, 1).
        multiple: INT4 kernels need widths that this divides.

    Raises:
        UsageError: the share is not in [0, 1).
        Refused: the share is nearer to none or to all than to any legal width. The message names
            the nearest share that works.
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


def kept_experts(experts: ExpertsFFN | None, ratio: float, ffn: float = 0.0) -> int:
    """How many experts of every layer stay; 0 for a dense model.

    Args:
        experts: those of every layer that has some; None: the model is dense.
        ratio: share to remove, in [0, 1); a tie removes less.
        ffn: share of FFN neurons to remove, which a mixture does not support.

    Raises:
        UsageError: the share is not in [0, 1).
        Refused: the model is dense, too few experts would stay, the share rounds to none, or
            neurons of experts were to be removed.
    """
    if experts is None:
        if ratio:
            raise Refused(
                f"experts {ratio}: the model is dense and has none",
                "prune the FFN instead (--ffn), heads or layers",
            )
        return 0
    if ffn:
        raise Refused(
            f"ffn {ffn}: FFN neurons of a mixture of experts cannot be removed",
            "remove whole experts: --experts 0.25",
        )
    if not 0 <= ratio < 1:
        raise UsageError(
            f"experts {ratio}: not a share in [0, 1)",
            "give the share of experts to remove, such as 0.25",
        )
    gone = math.ceil(experts.count * ratio - 0.5)
    _check_experts_can_go(experts, ratio, gone)
    return experts.count - gone


def _check_experts_can_go(experts: ExpertsFFN, ratio: float, gone: int) -> None:
    """Refuse to remove no expert, or so many that a token finds too few.

    Args:
        experts: those of every layer that has some.
        ratio: share to remove.
        gone: number of experts that this share removes.
    """
    spare = experts.count - experts.per_token
    if ratio and not spare:
        raise Refused(
            f"experts {ratio}: every token goes to all {experts.count} experts, so none can be "
            "removed",
            "prune heads or layers",
        )
    if ratio and not gone:
        share = f"{1 / experts.count:.4g}"
        raise Refused(
            f"experts {ratio}: of {experts.count} experts that is less than one",
            f"the nearest that removes one: --experts {share}",
        )
    if gone > spare:
        raise Refused(
            f"experts {ratio}: {experts.count - gone} of {experts.count} experts would stay, and a "
            f"token goes to {experts.per_token}",
            f"the most that can go: --experts {spare / experts.count:.4g}",
        )
