"""Helium: Llama whose rotary positions rotate neighbouring channels."""

from __future__ import annotations

from ..blocks import RotaryRule
from ..family import FFN_BIAS, Family

FAMILY = Family(
    "helium",
    biases={"attention_bias": ("q", "k", "v"), "mlp_bias": FFN_BIAS},
    head_counts="fixed",
    rotary_rule=RotaryRule(interleaved=True),
    defaults={
        "num_attention_heads": 20,
        "num_key_value_heads": 20,
        "head_dim": 128,
        "rms_norm_eps": 1e-8,
        "rope_theta": 1e5,
    },
)
