"""Code World Model: Llama with a window in three of four layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..family import FFN_BIAS, Family


class Cwm(Family):
    """CWM; the first of four layers sees everything."""

    def slides(self, full: Mapping[str, Any], index: int) -> bool:
        """See `Family.slides`."""
        return index % 4 != 0


FAMILY = Cwm(
    "cwm",
    biases={"mlp_bias": FFN_BIAS},
    windowed=True,
    head_counts="divisors",
    defaults={
        "num_key_value_heads": 8,
        "head_dim": 128,
        "sliding_window": 8192,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 1e6,
            "factor": 16.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    },
)
