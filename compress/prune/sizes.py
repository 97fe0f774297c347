"""The sizes that a model has after the cut that prune options ask for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import Refused
from ...models import Family, require_dense
from .experts import kept_experts
from .options import PruneOptions
from .selection import head_counts, neuron_count

__all__ = ["merged_config", "sizes_after"]


def sizes_after(options: PruneOptions, family: Family, config: Mapping[str, Any]) -> dict[str, int]:
    """The `heads`, `kv_heads`, `ffn` and `experts` of every layer after pruning.

    `experts` is there only for a mixture of experts.

    Raises:
        Refused: a share has no legal count near it, or the model has nothing of the kind.
    """
    shape = family.shape(config)
    if options.sparsity:
        require_dense(config, "made 2:4 sparse")
    experts = kept_experts(shape, options.experts, options.ffn or options.ffn_threshold or 0.0)
    sizes = {
        "heads": shape.num_attention_heads,
        "kv_heads": shape.num_key_value_heads,
        "ffn": shape.intermediate_size,
    }
    if options.heads or options.kv_heads:
        counts = head_counts(
            shape, options.heads, options.kv_heads, lambda n: family.accepts_heads(config, n)
        )
        sizes |= {"heads": counts[0], "kv_heads": counts[1]}
    sizes["ffn"] = neuron_count(shape.intermediate_size, options.ffn)
    return sizes | ({"experts": experts} if experts else {})


def merged_config(family: Family, config: Mapping[str, Any], groups: int) -> dict[str, Any]:
    """The config.json of the model whose key/value heads were averaged into `groups`.

    Raises:
        Refused: the key/value heads do not divide into so many groups, or are so few already.
    """
    shape = family.shape(config)
    have = shape.num_key_value_heads
    legal = [n for n in range(1, have) if have % n == 0]
    if groups not in legal:
        raise Refused(
            f"{have} key/value heads cannot be merged into {groups}",
            f"possible: {', '.join(map(str, legal))}"
            if legal
            else "a single key/value head is the least there is",
        )
    return family.resized(
        config,
        heads=shape.num_attention_heads,
        kv_heads=groups,
        ffn=shape.intermediate_size,
        layers=range(shape.num_hidden_layers),
    )
