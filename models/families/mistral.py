"""Mistral: Llama with an optional sliding window, in every layer or by `layer_types`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ..family import Family, Reach


class Mistral(Family):
    """Mistral 7B and its relatives."""

    def biased(self, config: Mapping[str, Any]) -> Collection[str]:
        """None, even if config.json says so."""
        return ()

    def reaches(self, config: Mapping[str, Any]) -> list[Reach]:
        """The layers that `layer_types` names have the window of the config; without it, all.

        transformers loads a Mistral with `layer_types` as `ministral`.
        """
        full = self.completed(config)
        window = int(full["sliding_window"] or 0)
        types = full.get("layer_types") or ["sliding_attention"] * int(full["num_hidden_layers"])
        return [Reach(window if kind == "sliding_attention" else 0) for kind in types]


FAMILY = Mistral("mistral", defaults={"num_key_value_heads": 8, "sliding_window": 4096})
