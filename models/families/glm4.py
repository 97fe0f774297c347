"""GLM-4-0414: norms behind both blocks too, half of each head rotated, in neighbouring pairs."""

from __future__ import annotations

from dataclasses import replace

from .glm import FAMILY as GLM

FAMILY = replace(
    GLM,
    model_type="glm4",
    mixer_post_norm="post_self_attn_layernorm",
    ffn_post_norm="post_mlp_layernorm",
)
