"""Ministral 3: Mistral with YaRN, and queries that grow with their position."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..blocks import PositionScale
from ..family import Family


class Ministral3(Family):
    """Ministral 3 3B, 8B and 14B."""

    def position_scale(self, config: Mapping[str, Any]) -> PositionScale | None:
        """Set by `llama_4_scaling_beta` of the rope block."""
        full = self.completed(config)
        rotary = self.rotary_rule.read(full, self.sizes(config).head_dim)
        beta = float(rotary.settings.get("llama_4_scaling_beta") or 0)
        return PositionScale(beta, rotary.pretrained_positions) if beta else None


FAMILY = Ministral3(
    "ministral3",
    biases={},
    defaults={
        "num_key_value_heads": 8,
        "head_dim": 128,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 262144,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 1e6,
            "factor": 16.0,
            "original_max_position_embeddings": 16384,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "llama_4_scaling_beta": 0.1,
        },
    },
)
