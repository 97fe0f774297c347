"""Gemma: norms whose stored weight is one less, scaled embeddings, a tanh GELU."""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from typing import Any

from ..family import Family

__all__ = ["Gemma"]


class Gemma(Family):
    """Gemma and its successors."""

    def embedding_scale(self, config: Mapping[str, Any]) -> float:
        """The square root of the width."""
        return sqrt(self.sizes(config).hidden_size)


FAMILY = Gemma(
    "gemma",
    norm_offset=1.0,
    fixed_activation="gelu_tanh",
    defaults={
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "head_dim": 256,
        "vocab_size": 256000,
        "tie_word_embeddings": True,
    },
)
