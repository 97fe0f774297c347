"""Mixtral: Mistral's attention and experts in every layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .family import LayerKind
from .mixture import Mixture


class Mixtral(Mixture):
    """Mixtral 8x7B, 8x22B."""

    def biased(self, config: Mapping[str, Any]) -> tuple[str, ...]:
        """None, whatever the config says."""
        return ()

    def layer_kinds(self, config: Mapping[str, Any]) -> list[LayerKind]:
        """All layers share the window of the config, where there is one."""
        return [LayerKind(int(config.get("sliding_window") or 0), None)] * int(
            config["num_hidden_layers"]
        )


FAMILY = Mixtral(
    model_types=("mixtral",),
    stored_mlp="block_sparse_moe",
    stored_projections=("w1", "w3", "w2"),
    count_keys=("num_local_experts",),
    size_key="intermediate_size",
    defaults={
        "num_key_value_heads": 8,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "intermediate_size": 14336,
    },
)
