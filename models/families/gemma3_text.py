"""Gemma 3, text only: norms around both blocks, norms on q and k, local and global layers."""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from typing import Any

from ..family import Family, Reach


class Gemma3(Family):
    """Gemma 3; its local and global layers have rotary bases of their own."""

    def reaches(self, config: Mapping[str, Any]) -> list[Reach]:
        """Every `sliding_window_pattern`-th layer (by default the sixth) sees everything."""
        full = self.completed(config)
        layers = int(full["num_hidden_layers"])
        window = int(full["sliding_window"] or 0)
        every = int(full.get("sliding_window_pattern") or full.get("_sliding_window_pattern") or 6)
        types = full.get("layer_types") or [
            "full_attention" if (i + 1) % every == 0 else "sliding_attention" for i in range(layers)
        ]
        return [Reach(window if kind == "sliding_attention" else 0, kind) for kind in types]

    def accepts_heads(self, config: Mapping[str, Any], heads: int) -> bool:
        """Transformers refuses a Gemma3TextConfig whose width is no multiple of its head count."""
        return self.sizes(config).hidden_size % heads == 0

    def query_scale(self, config: Mapping[str, Any]) -> float:
        """Set by `query_pre_attn_scalar`, not by the head size."""
        return float(self.completed(config)["query_pre_attn_scalar"]) ** -0.5

    def activation(self, config: Mapping[str, Any]) -> str:
        """The tanh approximation of GELU."""
        return "gelu_tanh"

    def embedding_scale(self, config: Mapping[str, Any]) -> float:
        """The square root of the width."""
        return sqrt(self.sizes(config).hidden_size)


FAMILY = Gemma3(
    "gemma3_text",
    qk_norm=True,
    mixer_post_norm="post_attention_layernorm",
    ffn_norm="pre_feedforward_layernorm",
    ffn_post_norm="post_feedforward_layernorm",
    norm_offset=1.0,
    defaults={
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "vocab_size": 262208,
        "sliding_window": 4096,
        "query_pre_attn_scalar": 256,
        "tie_word_embeddings": True,
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
    },
)
