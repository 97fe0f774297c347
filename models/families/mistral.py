"""Mistral: Llama with an optional sliding window in every layer."""

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
        """All layers share the window of the config, where there is one."""
        full = self.completed(config)
        return [Reach(int(full["sliding_window"] or 0))] * int(full["num_hidden_layers"])


FAMILY = Mistral("mistral", defaults={"num_key_value_heads": 8, "sliding_window": 4096})
