"""Gemma 3 text models: norms around both blocks, norms on q and k, local and global layers with their own rotary base."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .family import Family, LayerKind


class Gemma3(Family):
    """Gemma 3, text only."""

    def layer_kinds(self, config: Mapping[str, Any]) -> list[LayerKind]:
        """Every `sliding_window_pattern`-th layer (the sixth, if nothing is said) sees everything."""
        full = self.completed(config)
        layers, window = int(full["num_hidden_layers"]), int(full["sliding_window"] or 0)
        every = int(full.get("sliding_window_pattern") or full.get("_sliding_window_pattern") or 6)
        types = full.get("layer_types") or [
            "full_attention" if (i + 1) % every == 0 else "sliding_attention" for i in range(layers)
        ]
        return [LayerKind(window if t == "sliding_attention" else 0, t) for t in types]

    def accepts_heads(self, config: Mapping[str, Any], heads: int) -> bool:
        """Transformers refuses a Gemma3TextConfig whose width is no multiple of its head count."""
        return self.shape(config).hidden_size % heads == 0

    def query_scale(self, config: Mapping[str, Any]) -> float:
        """Set by `query_pre_attn_scalar`, not by the head size."""
        return float(self.completed(config)["query_pre_attn_scalar"]) ** -0.5

    def activation(self, config: Mapping[str, Any]) -> str:
        """The tanh approximation of GELU."""
        return "gelu_tanh"


FAMILY = Gemma3(
    model_types=("gemma3_text",),
    q_norm="self_attn.q_norm",
    k_norm="self_attn.k_norm",
    attention_post_norm="post_attention_layernorm",
    mlp_norm="pre_feedforward_layernorm",
    mlp_post_norm="post_feedforward_layernorm",
    norm_offset=1.0,
    scale_embedding=True,
    defaults={
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "vocab_size": 262208,
        "sliding_window": 4096,
        "query_pre_attn_scalar": 256,
        "tie_word_embeddings": True,
    },
)
