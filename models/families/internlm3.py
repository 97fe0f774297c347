"""InternLM3: Llama with other names for the switches of biases."""

from __future__ import annotations

from ..family import ATTENTION_BIAS, FFN_BIAS, Family

FAMILY = Family(
    "internlm3",
    biases={
        "attention_bias": ATTENTION_BIAS,
        "qkv_bias": ATTENTION_BIAS,
        "mlp_bias": FFN_BIAS,
        "bias": FFN_BIAS,
    },
    head_counts="divisors",
    defaults={"num_key_value_heads": 2, "head_dim": 128, "rms_norm_eps": 1e-5},
)
