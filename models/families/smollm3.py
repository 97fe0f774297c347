"""SmolLM3: Llama of which every fourth layer has no positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..family import ATTENTION_BIAS, FFN_BIAS, Family, Reach, Remaining


class SmolLM3(Family):
    """SmolLM3; `no_rope_layers` has 1 for a layer with positions, in spite of its name."""

    def reaches(self, config: Mapping[str, Any]) -> list[Reach]:
        """No layer has a window unless `use_sliding_window` is set."""
        windows = {} if self.completed(config).get("use_sliding_window") else {"sliding_window": 0}
        return super().reaches({**config, **windows})

    def slides(self, full: Mapping[str, Any], index: int) -> bool:
        """The layers without positions."""
        return not self.rotates(full, index, slides=True)

    def rotates(self, full: Mapping[str, Any], index: int, slides: bool) -> bool:
        """See `Family.rotates`."""
        stated: list[int] | None = full.get("no_rope_layers")
        if stated:
            return bool(stated[index])
        return (index + 1) % int(full["no_rope_layer_interval"]) != 0

    def resized(self, config: Mapping[str, Any], remaining: Remaining) -> dict[str, Any]:
        """See `Family.resized`; it lists the layers with positions."""
        reaches = self.reaches(config)
        rotary = [int(reaches[index].rotary) for index in remaining.layers]
        return {**super().resized(config, remaining), "no_rope_layers": rotary}


FAMILY = SmolLM3(
    "smollm3",
    biases={"attention_bias": ATTENTION_BIAS, "mlp_bias": FFN_BIAS},
    windowed=True,
    defaults={
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "vocab_size": 128256,
        "no_rope_layer_interval": 4,
        "rope_theta": 2e6,
        "tie_word_embeddings": True,
    },
)
