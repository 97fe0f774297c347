"""Qwen2-MoE (biases on q, k and v, a shared expert) and Qwen3-MoE (norms on q and k): dense layers may be among the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .family import LayerKind
from .mixture import Mixture


class Qwen2Moe(Mixture):
    """Qwen1.5-MoE-A2.7B, Qwen2-57B-A14B."""

    def biased(self, config: Mapping[str, Any]) -> tuple[str, ...]:
        """q, k and v, unless `qkv_bias` is off."""
        return (self.q, self.k, self.v) if config.get("qkv_bias", True) else ()

    def layer_kinds(self, config: Mapping[str, Any]) -> list[LayerKind]:
        """With `use_sliding_window` every second layer below `max_window_layers` slides, the first one first."""
        full = self.completed(config)
        layers = int(full["num_hidden_layers"])
        if not full.get("use_sliding_window"):
            return [LayerKind(0, None)] * layers
        window, last = int(full["sliding_window"] or 0), int(full["max_window_layers"])
        types = full.get("layer_types") or [
            "sliding_attention" if i % 2 == 0 and i < last else "full_attention"
            for i in range(layers)
        ]
        return [LayerKind(window if t == "sliding_attention" else 0, None) for t in types]


class Qwen3Moe(Mixture):
    """Qwen3-30B-A3B, Qwen3-235B-A22B."""

    def layer_kinds(self, config: Mapping[str, Any]) -> list[LayerKind]:
        """All layers share the window, if it is switched on."""
        full = self.completed(config)
        window = int(full["sliding_window"] or 0) if full.get("use_sliding_window") else 0
        return [LayerKind(window, None)] * int(full["num_hidden_layers"])


QWEN2_MOE = Qwen2Moe(
    model_types=("qwen2_moe",),
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
QWEN3_MOE = Qwen3Moe(
    model_types=("qwen3_moe",),
    q_norm="self_attn.q_norm",
    k_norm="self_attn.k_norm",
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
