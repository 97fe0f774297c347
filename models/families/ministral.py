"""Ministral 8B: Mistral with a window in the layers that `layer_types` names."""

from __future__ import annotations

from ..family import Family

FAMILY = Family(
    "ministral",
    biases={},
    windowed=True,
    defaults={"num_key_value_heads": 8, "sliding_window": 4096},
)
