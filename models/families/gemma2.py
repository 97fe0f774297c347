"""Gemma 2: norms around both blocks, soft caps, every second layer with a window."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .gemma import Gemma

__all__ = ["Gemma2"]


class Gemma2(Gemma):
    """Gemma 2 and 3."""

    def query_scale(self, config: Mapping[str, Any]) -> float:
        """Set by `query_pre_attn_scalar`, not by the head size."""
        return float(self.completed(config)["query_pre_attn_scalar"]) ** -0.5


FAMILY = Gemma2(
    "gemma2",
    mixer_post_norm="post_attention_layernorm",
    ffn_norm="pre_feedforward_layernorm",
    ffn_post_norm="post_feedforward_layernorm",
    norm_offset=1.0,
    fixed_activation="gelu_tanh",
    windowed=True,
    full_every=2,
    softcaps=True,
    head_counts="divisors",
    defaults={
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "vocab_size": 256000,
        "sliding_window": 4096,
        "query_pre_attn_scalar": 256,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "tie_word_embeddings": True,
    },
)
