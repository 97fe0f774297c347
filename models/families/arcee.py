"""Arcee (AFM): Llama with an FFN that has no gate, and the square of ReLU."""

from __future__ import annotations

from ..family import ATTENTION_BIAS, FFN_BIAS, Family

FAMILY = Family(
    "arcee",
    ffn_projections=(None, "up_proj", "down_proj"),
    biases={"attention_bias": ATTENTION_BIAS, "mlp_bias": FFN_BIAS},
    head_counts="divisors",
    defaults={"hidden_act": "relu2", "rms_norm_eps": 1e-5},
)
