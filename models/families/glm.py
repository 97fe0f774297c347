"""GLM-4-9B of 2024: half of each head rotated, in neighbouring pairs; gate and up are fused."""

from __future__ import annotations

from ..blocks import RotaryRule
from ..family import Family

FAMILY = Family(
    "glm",
    biases={"attention_bias": ("q", "k", "v")},
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
