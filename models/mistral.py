"""Mistral: Llama with an optional sliding window in every layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .family import Family, LayerKind


class Mistral(Family):
    """Mistral 7B and its relatives."""

    def biased(self, config: Mapping[str, Any]) -> tuple[str, ...]:
        """None, whatever the config says."""
        return ()

    def layer_kinds(self, config: Mapping[str, Any]) -> list[LayerKind]:
        """All layers share the window of the config, where there is one."""
        return [LayerKind(int(self.completed(config)["sliding_window"] or 0), None)] * int(
            config["num_hidden_layers"]
        )


FAMILY = Mistral(
    model_types=("mistral",), defaults={"num_key_value_heads": 8, "sliding_window": 4096}
)
