"""OLMo 3: OLMo 2 with a window in three of four layers, whose positions are never scaled."""

from __future__ import annotations

from ..family import Family, QkNorm

FAMILY = Family(
    "olmo3",
    qk_norm=True,
    qk_norm_rule=QkNorm(whole=True),
    mixer_norm=None,
    mixer_post_norm="post_attention_layernorm",
    ffn_norm=None,
    ffn_post_norm="post_feedforward_layernorm",
    windowed=True,
    full_every=4,
    rotary_by_type=True,
    defaults={"rms_norm_eps": 1e-5, "sliding_window": 4096, "rope_theta": 5e5},
)
