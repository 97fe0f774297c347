"""Ministral 8B: Mistral whose layers say by `layer_types` which of them have the window."""

from __future__ import annotations

from .mistral import Mistral

FAMILY = Mistral("ministral", defaults={"num_key_value_heads": 8, "sliding_window": 4096})
