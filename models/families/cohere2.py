"""Command R7B (Cohere 2): parallel blocks, layer norms; only layers with windows have positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..blocks import RotaryRule
from ..family import Family


class Cohere2(Family):
    """Cohere 2."""

    def rotates(self, full: Mapping[str, Any], index: int, slides: bool) -> bool:
        """Only layers with a window have positions."""
        return slides and bool(full.get("sliding_window"))

    def logit_scale(self, config: Mapping[str, Any]) -> float:
        """See `Family.logit_scale`."""
        return float(self.completed(config)["logit_scale"])


FAMILY = Cohere2(
    "cohere2",
    norm_kind="layer",
    norm_epsilon="layer_norm_eps",
    ffn_norm=None,
    parallel=True,
    windowed=True,
    full_every=4,
    head_counts="fixed",
    rotary_rule=RotaryRule(interleaved=True),
    defaults={
        "sliding_window": 4096,
        "layer_norm_eps": 1e-5,
        "logit_scale": 0.0625,
        "tie_word_embeddings": True,
    },
)
