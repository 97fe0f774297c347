"""GLM-4-0414: norms behind both blocks too, half of each head rotated, in neighbouring pairs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ..blocks import RotaryRule
from ..family import Family


class Glm4(Family):
    """GLM-4-9B-0414 and GLM-4-32B-0414."""

    def biased(self, config: Mapping[str, Any]) -> Collection[str]:
        """q, k and v, unless `attention_bias` is off; the output projection has none."""
        return ("q", "k", "v") if self.completed(config)["attention_bias"] else ()


FAMILY = Glm4(
    "glm4",
    mixer_post_norm="post_self_attn_layernorm",
    ffn_post_norm="post_mlp_layernorm",
    rotary_rule=RotaryRule(interleaved=True, share=0.5, partial=True),
    fused_gate_up="mlp.gate_up_proj",
    defaults={
        "num_key_value_heads": 2,
        "head_dim": 128,
        "attention_bias": True,
        "rms_norm_eps": 0.00000015625,
        "max_position_embeddings": 131072,
    },
)
