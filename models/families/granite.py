"""Granite 3, dense: Llama with factors on embedding, attention, residuals and logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..family import ATTENTION_BIAS, FFN_BIAS, Family


class Granite(Family):
    """Granite; config.json has every factor."""

    def embedding_scale(self, config: Mapping[str, Any]) -> float:
        """See `Family.embedding_scale`."""
        return float(self.completed(config)["embedding_multiplier"])

    def query_scale(self, config: Mapping[str, Any]) -> float:
        """Not set by the head size."""
        return float(self.completed(config)["attention_multiplier"])

    def residual_scale(self, config: Mapping[str, Any]) -> float:
        """See `Family.residual_scale`."""
        return float(self.completed(config)["residual_multiplier"])

    def logit_scale(self, config: Mapping[str, Any]) -> float:
        """Logits are divided by `logits_scaling`."""
        return 1 / float(self.completed(config)["logits_scaling"])


FAMILY = Granite(
    "granite",
    biases={"attention_bias": ATTENTION_BIAS, "mlp_bias": FFN_BIAS},
    defaults={
        "embedding_multiplier": 1.0,
        "attention_multiplier": 1.0,
        "residual_multiplier": 1.0,
        "logits_scaling": 1.0,
    },
)
