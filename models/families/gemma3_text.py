"""Gemma 3, text only: norms around both blocks, norms on q and k, local and global layers.

Local and global layers have rotary bases of their own.
"""

from __future__ import annotations

from .gemma2 import Gemma2

FAMILY = Gemma2(
    "gemma3_text",
    qk_norm=True,
    mixer_post_norm="post_attention_layernorm",
    ffn_norm="pre_feedforward_layernorm",
    ffn_post_norm="post_feedforward_layernorm",
    norm_offset=1.0,
    fixed_activation="gelu_tanh",
    windowed=True,
    full_every=6,
    rotary_by_type=True,
    softcaps=True,
    head_counts="divisors",
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
