"""OLMo 2: norms behind the blocks only, and norms over the whole width of q and k."""

from __future__ import annotations

from ..family import Family, QkNorm

FAMILY = Family(
    "olmo2",
    qk_norm=True,
    qk_norm_rule=QkNorm(whole=True),
    mixer_norm=None,
    mixer_post_norm="post_attention_layernorm",
    ffn_norm=None,
    ffn_post_norm="post_feedforward_layernorm",
    defaults={"rms_norm_eps": 1e-5},
)
