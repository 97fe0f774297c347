"""Seed-OSS: Llama with a bias on q, k and v, and a switch of its own for that of o."""

from __future__ import annotations

from ..family import FFN_BIAS, Family

FAMILY = Family(
    "seed_oss",
    biases={"attention_bias": ("q", "k", "v"), "attention_out_bias": ("o",), "mlp_bias": FFN_BIAS},
    defaults={"num_key_value_heads": 8, "head_dim": 128, "attention_bias": True},
)
