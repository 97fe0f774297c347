"""Families whose layers, or some of them, route each token to a few of many experts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .blocks import FFN, ExpertsFFN
from .blocks.ffn import gated_ffn
from .family import MLP, PROJECTIONS, Family, Remaining
from .sizes import ExpertSizes

__all__ = ["Mixture"]


@dataclass(frozen=True)
class Mixture(Family):
    """A family with experts. Layers without experts have a dense FFN.

    Attributes:
        file_name: what files call the module that transformers calls `mlp`.
        projections: names in files of an expert's gate, up and down projection.
        shared: name of the expert that every token goes through as well; None: there is none.
        count_keys: how config.json spells the number of experts. A cut model has every spelling,
            because readers differ.
        size_key: how config.json spells the neurons of an expert.
    """

    file_name: str = MLP
    projections: tuple[str, str, str] = PROJECTIONS
    shared: str | None = None
    count_keys: tuple[str, ...] = ("num_experts",)
    size_key: str = "moe_intermediate_size"

    def experts(self, config: Mapping[str, Any]) -> ExpertSizes | None:
        """See `Family.experts`."""
        full, layers = self.completed(config), self._expert_layers(config)
        counts = (config[key] for key in self.count_keys if config.get(key) is not None)
        found = ExpertSizes(
            int(next(counts, full[self.count_keys[0]])),
            int(full["num_experts_per_tok"]),
            int(full[self.size_key]),
            layers,
            int(full["shared_expert_intermediate_size"]) if self.shared else 0,
            bool(full.get("norm_topk_prob", True)),
        )
        return found if layers and found.count else None

    def experts_ffn(self, config: Mapping[str, Any], experts: ExpertSizes) -> FFN:
        """See `Family.experts_ffn`."""
        width, activation = self.sizes(config).hidden_size, self.activation(config)
        shared = (
            gated_ffn(self.shared, PROJECTIONS, (experts.shared, width), activation)
            if self.shared
            else None
        )
        return ExpertsFFN(
            MLP,
            self.file_name,
            self.projections,
            width,
            experts.size,
            experts.count,
            experts.per_token,
            experts.renormalised,
            activation,
            shared,
        )

    def resized(self, config: Mapping[str, Any], remaining: Remaining) -> dict[str, Any]:
        """See `Family.resized`; which layers are dense is spelled out as well."""
        small = super().resized(config, remaining)
        routed, have = self._expert_layers(config), self.experts(config)
        if len(routed) < self.sizes(config).num_hidden_layers:
            dense = [new for new, old in enumerate(remaining.layers) if old not in routed]
            small |= {"decoder_sparse_step": 1, "mlp_only_layers": dense}
        if have:
            small |= dict.fromkeys(self.count_keys, remaining.experts or have.count)
        return small

    def _expert_layers(self, config: Mapping[str, Any]) -> tuple[int, ...]:
        """Every `decoder_sparse_step`-th layer, without those that `mlp_only_layers` names."""
        layers = self.sizes(config).num_hidden_layers
        step = int(config.get("decoder_sparse_step") or 1)
        dense: list[int] = config.get("mlp_only_layers") or []
        return tuple(i for i in range(step - 1, layers, step) if i not in dense)
