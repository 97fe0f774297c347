"""Qwen2-MoE: biases on q, k and v, a shared expert; dense layers may be among the others."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ..family import Reach
from ..mixture import Mixture
from .qwen2 import switched_windows


class Qwen2Moe(Mixture):
    """Qwen1.5-MoE-A2.7B and Qwen2-57B-A14B."""

    def biased(self, config: Mapping[str, Any]) -> Collection[str]:
        """q, k and v, unless `qkv_bias` is off."""
        return ("q", "k", "v") if config.get("qkv_bias", True) else ()

    def reaches(self, config: Mapping[str, Any]) -> list[Reach]:
        """With `use_sliding_window` every second layer below `max_window_layers` slides."""
        full = self.completed(config)
        return switched_windows(
            full, lambda index: index % 2 == 0 and index < int(full["max_window_layers"])
        )


FAMILY = Qwen2Moe(
    "qwen2_moe",
    shared="mlp.shared_expert",
    defaults={
        "num_key_value_heads": 16,
        "sliding_window": 4096,
        "max_window_layers": 28,
        "num_experts": 60,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632,
        "norm_topk_prob": False,
        "intermediate_size": 5632,
    },
)
