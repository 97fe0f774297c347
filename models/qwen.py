"""Qwen2, Qwen2.5 (biases on q, k and v) and Qwen3 (norms on q and k): dense models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .family import Family, LayerKind


class Qwen(Family):
    """What Qwen2 and Qwen3 share: a sliding window in some of the layers, if it is switched on."""

    def layer_kinds(self, config: Mapping[str, Any]) -> list[LayerKind]:
        """Layers from `max_window_layers` on slide when `use_sliding_window` is set."""
        full = self.completed(config)
        layers = int(full["num_hidden_layers"])
        if not full.get("use_sliding_window"):
            return [LayerKind(0, None)] * layers
        window, first = int(full["sliding_window"] or 0), int(full["max_window_layers"])
        types = full.get("layer_types") or [
            "sliding_attention" if i >= first else "full_attention" for i in range(layers)
        ]
        return [LayerKind(window if t == "sliding_attention" else 0, None) for t in types]


class Qwen2(Qwen):
    """Qwen2 always has biases on q, k and v; its config does not say so."""

    def biased(self, config: Mapping[str, Any]) -> tuple[str, ...]:
        """Always these three."""
        return (self.q, self.k, self.v)


WINDOWS = {"num_key_value_heads": 32, "sliding_window": 4096, "max_window_layers": 28}
QWEN2 = Qwen2(model_types=("qwen2",), defaults=WINDOWS)
QWEN3 = Qwen(
    model_types=("qwen3",),
    q_norm="self_attn.q_norm",
    k_norm="self_attn.k_norm",
    defaults={**WINDOWS, "head_dim": 128},
)
