"""Qwen2 and Qwen2.5: biases on q, k and v."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from ..family import Family, Reach

WINDOWS = {"num_key_value_heads": 32, "sliding_window": 4096, "max_window_layers": 28}


def switched_windows(full: Mapping[str, Any], slides: Callable[[int], bool]) -> list[Reach]:
    """How far back each layer sees, if `use_sliding_window` switches windows on.

    Args:
        full: the config.json with all defaults.
        slides: whether the layer of this index has a window, where no `layer_types` say so.
    """
    layers = range(int(full["num_hidden_layers"]))
    if not full.get("use_sliding_window"):
        return [Reach(0) for _ in layers]
    window = int(full["sliding_window"] or 0)
    types: list[str] | None = full.get("layer_types")
    sliding = [kind == "sliding_attention" for kind in types] if types else map(slides, layers)
    return [Reach(window if slide else 0) for slide in sliding]


class WindowedQwen(Family):
    """The Qwen models of which some layers have a sliding window, if it is switched on."""

    def reaches(self, config: Mapping[str, Any]) -> list[Reach]:
        """Layers from `max_window_layers` on slide when `use_sliding_window` is set."""
        full = self.completed(config)
        return switched_windows(full, lambda index: index >= int(full["max_window_layers"]))


class Qwen2(WindowedQwen):
    """Qwen2 always has biases on q, k and v; config.json does not mention them."""

    def biased(self, config: Mapping[str, Any]) -> Collection[str]:
        """Always these three."""
        return ("q", "k", "v")


FAMILY = Qwen2("qwen2", defaults=WINDOWS)
