"""ERNIE 4.5, dense: Llama whose rotary positions rotate neighbouring channels."""

from __future__ import annotations

from ..blocks import RotaryRule
from ..family import ATTENTION_BIAS, FFN_BIAS, Family

FAMILY = Family(
    "ernie4_5",
    biases={"use_bias": (*ATTENTION_BIAS, *FFN_BIAS)},
    rotary_rule=RotaryRule(interleaved=True),
    defaults={
        "num_key_value_heads": 2,
        "head_dim": 128,
        "vocab_size": 103424,
        "rms_norm_eps": 1e-5,
        "rope_theta": 5e5,
        "tie_word_embeddings": True,
    },
)
