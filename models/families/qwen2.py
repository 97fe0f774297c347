"""Qwen2 and Qwen2.5: biases on q, k and v."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ..family import Family, Reach

WINDOWS = {"num_key_value_heads": 32, "sliding_window": 4096, "max_window_layers": 28}


class WindowedQwen(Family):
    """The Qwen models of which some layers have a sliding window, if it is switched on."""

    def reaches(self, config: Mapping[str, Any]) -> list[Reach]:
        """Layers from `max_window_layers` on slide when `use_sliding_window` is set."""
        full = self.completed(config)
        layers = int(full["num_hidden_layers"])
        if not full.get("use_sliding_window"):
            return [Reach(0)] * layers
        window = int(full["sliding_window"] or 0)
        first = int(full["max_window_layers"])
        types = full.get("layer_types") or [
            "sliding_attention" if i >= first else "full_attention" for i in range(layers)
        ]
        return [Reach(window if kind == "sliding_attention" else 0) for kind in types]


class Qwen2(WindowedQwen):
    """Qwen2 always has biases on q, k and v; config.json does not mention them."""

    def biased(self, config: Mapping[str, Any]) -> Collection[str]:
        """Always these three."""
        return ("q", "k", "v")


FAMILY = Qwen2("qwen2", defaults=WINDOWS)
