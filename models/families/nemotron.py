"""Nemotron and Minitron: layer norms stored less one, an FFN without a gate, partial rotary."""

from __future__ import annotations

from ..blocks import RotaryRule
from ..family import ATTENTION_BIAS, FFN_BIAS, Family

FAMILY = Family(
    "nemotron",
    norm_kind="layer",
    norm_bias=True,
    norm_offset=1.0,
    norm_epsilon="norm_eps",
    ffn_projections=(None, "up_proj", "down_proj"),
    biases={"attention_bias": ATTENTION_BIAS, "mlp_bias": FFN_BIAS},
    rotary_rule=RotaryRule(share=0.5, partial=True),
    defaults={"hidden_act": "relu2", "norm_eps": 1e-5},
)
