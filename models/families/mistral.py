"""Mistral: Llama with an optional sliding window; by `layer_types`, in some layers only."""

from __future__ import annotations

from ..family import Family

FAMILY = Family(
    "mistral",
    biases={},
    windowed=True,
    defaults={"num_key_value_heads": 8, "sliding_window": 4096},
)
