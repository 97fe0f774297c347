"""Hunyuan, dense: Llama with norms on q and k behind the rotation."""

from __future__ import annotations

from ..family import Family, QkNorm

FAMILY = Family(
    "hunyuan_v1_dense",
    qk_norm=True,
    qk_norm_rule=QkNorm(("query_layernorm", "key_layernorm"), after_rotary=True),
    defaults={"rms_norm_eps": 1e-5},
)
