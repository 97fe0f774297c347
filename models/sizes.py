"""The sizes that every config.json of a decoder gives, read and checked once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import UsageError
from .blocks import ExpertsFFN
from .config_values import RESTORE

__all__ = ["Sizes", "check_experts", "check_sizes"]


@dataclass(frozen=True)
class Sizes:
    """The sizes of a decoder, under the names that config.json has for them."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> Sizes:
        """The sizes in a config.json that the family's defaults complete.

        Without a default, `head_dim` falls back to width / heads as in transformers.
        """
        heads = int(config["num_attention_heads"])
        return cls(
            hidden_size=int(config["hidden_size"]),
            num_hidden_layers=int(config["num_hidden_layers"]),
            num_attention_heads=heads,
            num_key_value_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or int(config["hidden_size"]) // max(heads, 1)),
            intermediate_size=int(config["intermediate_size"]),
            vocab_size=int(config["vocab_size"]),
        )


def check_sizes(sizes: Sizes, where: str) -> None:
    """Accept sizes that a model can have.

    Raises:
        UsageError: a size is below one, or the heads do not divide into groups.
    """
    _check_positive(asdict(sizes), where)
    heads = sizes.num_attention_heads
    kv_heads = sizes.num_key_value_heads
    if heads % kv_heads:
        raise UsageError(
            f"{where}: {heads} query heads do not divide into {kv_heads} key/value heads", RESTORE
        )


def check_experts(experts: ExpertsFFN, where: str) -> None:
    """Accept experts that a model can have.

    Raises:
        UsageError: a size is below one, or a token goes to more experts than there are.
    """
    sizes = {
        "experts": experts.count,
        "experts per token": experts.per_token,
        "size of an expert": experts.size,
    }
    _check_positive(sizes, where)
    if experts.per_token > experts.count:
        raise UsageError(
            f"{where}: a token goes to {experts.per_token} experts, and there are {experts.count}",
            RESTORE,
        )


def _check_positive(sizes: Mapping[str, int], where: str) -> None:
    if bad := [name for name, size in sizes.items() if size < 1]:
        raise UsageError(f"{where}: {', '.join(bad)} must be at least 1", RESTORE)
