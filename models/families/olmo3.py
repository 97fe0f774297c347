"""OLMo 3: OLMo 2 with a window in three of four layers, whose positions are never scaled."""

from __future__ import annotations

from dataclasses import replace

from .olmo2 import FAMILY as OLMO2

FAMILY = replace(
    OLMO2,
    model_type="olmo3",
    windowed=True,
    full_every=4,
    rotary_by_type=True,
    defaults={**OLMO2.defaults, "sliding_window": 4096, "rope_theta": 5e5},
)
