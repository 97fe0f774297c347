"""Families whose layers, or some of them, route each token to a few of many experts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .blocks import ExpertsFFN
from .blocks.ffn import make_ffn
from .family import MLP, PROJECTIONS, Family, Remaining

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

    def expert_layers(self, config: Mapping[str, Any]) -> tuple[int, ...]:
        """Every `decoder_sparse_step`-th layer, without those that `mlp_only_layers` names."""
        if not self._expert_count(config):
            return ()
        layers = self.sizes(config).num_hidden_layers
        step = int(config.get("decoder_sparse_step") or 1)
        dense: list[int] = config.get("mlp_only_layers") or []
        return tuple(i for i in range(step - 1, layers, step) if i not in dense)

    def _expert_count(self, config: Mapping[str, Any]) -> int:
        """Experts of a layer, by the first spelling that config.json has, or else the default."""
        counts = (config[key] for key in self.count_keys if config.get(key) is not None)
        return int(next(counts, self.completed(config)[self.count_keys[0]]))

    def experts_ffn(self, config: Mapping[str, Any]) -> ExpertsFFN:
        """See `Family.experts_ffn`."""
        full = self.completed(config)
        activation = self.activation(config)
        width = self.sizes(config).hidden_size
        shared = None
        if self.shared:
            widths = (int(full["shared_expert_intermediate_size"]), width)
            shared = make_ffn(self.shared, PROJECTIONS, widths, activation)
        return ExpertsFFN(
            MLP,
            self.file_name,
            self.projections,
            width,
            int(full[self.size_key]),
            self._expert_count(config),
            int(full["num_experts_per_tok"]),
            bool(full.get("norm_topk_prob", True)),
            activation,
            shared,
        )

    def resized(self, config: Mapping[str, Any], remaining: Remaining) -> dict[str, Any]:
        """See `Family.resized`; the dense layers are listed by number as well."""
        small = super().resized(config, remaining)
        routed = self.expert_layers(config)
        count = self._expert_count(config)
        if count and len(routed) < self.sizes(config).num_hidden_layers:
            dense = [new for new, old in enumerate(remaining.layers) if old not in routed]
            small |= {"decoder_sparse_step": 1, "mlp_only_layers": dense}
        if routed:
            small |= dict.fromkeys(self.count_keys, remaining.experts or count)
        return small
