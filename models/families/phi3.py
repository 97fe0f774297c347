"""Phi-3 and Phi-4-mini: q, k and v are stored as one matrix, gate and up as another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..blocks import RotaryRule
from ..family import Family


class Phi3(Family):
    """Phi-3-mini, Phi-3-medium, Phi-3.5-mini, Phi-4 and Phi-4-mini."""

    def accepts_heads(self, config: Mapping[str, Any], heads: int) -> bool:
        """With longrope, transformers wants a factor for each channel pair of width / heads."""
        full = self.completed(config)
        rotary = self.rotary_rule.read(full, self.sizes(config).hidden_size // heads)
        factors = rotary.settings.get("short_factor")
        return factors is None or len(factors) == rotary.dim // 2


FAMILY = Phi3(
    "phi3",
    biases={},
    windowed=True,
    rotary_rule=RotaryRule(partial=True, spellings={"yarn": "longrope"}),
    fused_qkv="self_attn.qkv_proj",
    fused_gate_up="mlp.gate_up_proj",
    defaults={
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096,
    },
)
