"""Qwen3-MoE: norms on q and k, no shared expert; dense layers may be among the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..family import Reach
from ..mixture import Mixture


class Qwen3Moe(Mixture):
    """Qwen3-30B-A3B and Qwen3-235B-A22B."""

    def reaches(self, config: Mapping[str, Any]) -> list[Reach]:
        """All layers share the window, if it is switched on."""
        full = self.completed(config)
        window = int(full["sliding_window"] or 0) if full.get("use_sliding_window") else 0
        return [Reach(window)] * int(full["num_hidden_layers"])


FAMILY = Qwen3Moe(
    "qwen3_moe",
    qk_norm=True,
    count_keys=("num_local_experts", "num_experts"),
    defaults={
        "num_key_value_heads": 4,
        "sliding_window": 4096,
        "num_local_experts": 128,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 768,
        "norm_topk_prob": False,
        "intermediate_size": 6144,
    },
)
