"""Mixtral: Mistral's attention and experts in every layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..family import Reach
from ..mixture import Mixture


class Mixtral(Mixture):
    """Mixtral 8x7B and 8x22B."""

    def reaches(self, config: Mapping[str, Any]) -> list[Reach]:
        """All layers share the window of the config, where there is one."""
        full = self.completed(config)
        return [Reach(int(full.get("sliding_window") or 0))] * int(full["num_hidden_layers"])


FAMILY = Mixtral(
    "mixtral",
    biases={},
    file_name="block_sparse_moe",
    projections=("w1", "w3", "w2"),
    count_keys=("num_local_experts",),
    size_key="intermediate_size",
    defaults={
        "num_key_value_heads": 8,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "intermediate_size": 14336,
        "rms_norm_eps": 1e-5,
    },
)
