"""The sizes of a model after a cut, from its architecture and the prune options."""

from __future__ import annotations

from ...errors import Refused
from ...models import HEADS, MERGED_HEADS, Architecture, require_expressible
from .counts import head_counts, kept_experts, neuron_count
from .options import PruneOptions

__all__ = ["merged_kv", "sizes_after"]


def sizes_after(options: PruneOptions, architecture: Architecture) -> dict[str, int]:
    """The `heads`, `kv_heads`, `ffn` and `experts` of every layer after pruning.

    `experts` is left out for a dense model.

    Args:
        options: what to remove.
        architecture: of the uncut model.

    Raises:
        UsageError: a share is out of range.
        Refused: a share has no legal count near it, or the model has no such parts.
    """
    if options.sparsity:
        require_expressible(architecture, "2:4", "config.json")
    ffn = options.ffn or options.ffn_threshold or 0.0
    experts = kept_experts(architecture.experts, options.experts, ffn)
    have = architecture.attention_sizes
    sizes = {"heads": have.heads, "kv_heads": have.kv_heads}
    if options.heads or options.kv_heads:
        require_expressible(architecture, HEADS, "config.json")
        accepts = architecture.accepts_heads
        heads, kv_heads = head_counts(have, options.heads, options.kv_heads, accepts)
        sizes = {"heads": heads, "kv_heads": kv_heads}
    sizes["ffn"] = neuron_count(architecture.intermediate_size, options.ffn)
    return sizes | ({"experts": experts} if experts else {})


def merged_kv(architecture: Architecture, groups: int) -> Architecture:
    """The architecture after the key/value heads were averaged into `groups`.

    Args:
        architecture: of the model before.
        groups: key/value heads that are left.

    Raises:
        Refused: the key/value heads cannot be divided into so many groups.
    """
    require_expressible(architecture, MERGED_HEADS, "config.json")
    sizes = architecture.attention_sizes
    have = sizes.kv_heads
    legal = [n for n in range(1, have) if have % n == 0]
    if groups not in legal:
        raise Refused(
            f"{have} key/value heads cannot be merged into {groups}",
            f"possible: {', '.join(map(str, legal))}"
            if legal
            else "a single key/value head is the least there is",
        )
    return architecture.resized(
        heads=sizes.heads,
        kv_heads=groups,
        ffn=architecture.intermediate_size,
        layers=range(len(architecture.layers)),
    )
