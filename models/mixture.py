"""Mixtures of experts: what they add to a decoder, and how their layers count.

In memory transformers 5 keeps all experts of a layer in two fused tensors; files hold one tensor an expert and projection.
Names of modules are those in memory, names that say `stored` are those in files. Layers without experts have a plain FFN.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from .family import Experts, Family, Shape, has_module

if TYPE_CHECKING:  # a plan needs shapes only, and torch takes seconds to import
    from torch import Tensor, nn

__all__ = ["Mixture"]


@dataclass(frozen=True)
class Mixture(Family):
    """A family whose layers, or some of them, route each token to a few of many experts."""

    router: str = "mlp.gate"
    expert_pool: str = "mlp.experts"
    stored_mlp: str = "mlp"
    stored_projections: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj")
    """Gate, up and down projection of one expert."""
    shared: str | None = None
    """An expert that every token goes through, with a gate of one output beside it (`<shared>_gate`)."""
    count_keys: tuple[str, ...] = ("num_experts",)
    """How config.json spells the number of experts; written under every spelling, as readers differ."""
    size_key: str = "moe_intermediate_size"

    def experts(self, config: Mapping[str, Any]) -> Experts | None:
        """The experts that a config.json describes; None where every layer is dense."""
        full = self.completed(config)
        layers = self.expert_layers(config)
        count = int(
            next(
                (config[key] for key in self.count_keys if config.get(key) is not None),
                full[self.count_keys[0]],
            )
        )
        shared = int(full["shared_expert_intermediate_size"]) if self.shared else 0
        renormalised = bool(full.get("norm_topk_prob", True))
        found = Experts(
            count,
            int(full["num_experts_per_tok"]),
            int(full[self.size_key]),
            layers,
            shared,
            renormalised,
        )
        return found if layers and count else None

    def expert_layers(self, config: Mapping[str, Any]) -> tuple[int, ...]:
        """Every `decoder_sparse_step`-th layer, but for those that `mlp_only_layers` names."""
        layers, step = int(config["num_hidden_layers"]), int(config.get("decoder_sparse_step") or 1)
        dense: list[int] = config.get("mlp_only_layers") or []
        return tuple(i for i in range(step - 1, layers, step) if i not in dense)

    def shape(self, config: Mapping[str, Any]) -> Shape:
        """See `Family.shape`."""
        return replace(super().shape(config), experts=self.experts(config))

    def linear_shapes(self, config: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
        """See `Family.linear_shapes`; a star stands for the number of the expert."""
        s, shapes = self.shape(config), super().linear_shapes(config)
        if s.experts is None:
            return shapes
        if len(s.experts.layers) == s.num_hidden_layers:
            shapes = {name: shapes[name] for name in (self.q, self.k, self.v, self.o)}
        pools = {f"{self.stored_mlp}.experts.*": s.experts.size} | (
            {self.shared: s.experts.shared} if self.shared else {}
        )
        for pool, size in pools.items():
            gate, up, down = self.stored_projections
            shapes |= {
                f"{pool}.{gate}": (size, s.hidden_size),
                f"{pool}.{up}": (size, s.hidden_size),
            }
            shapes[f"{pool}.{down}"] = (s.hidden_size, size)
        return shapes

    def linear_counts(
        self, config: Mapping[str, Any], tokens: int | None = None
    ) -> dict[str, float]:
        """See `Family.linear_counts`."""
        s, names = self.shape(config), self.linear_shapes(config)
        if s.experts is None:
            return dict.fromkeys(names, s.num_hidden_layers)
        routed, used = (
            len(s.experts.layers),
            s.experts.count if tokens is None else s.experts.used_by(tokens),
        )
        everywhere, dense = (self.q, self.k, self.v, self.o), (self.gate, self.up, self.down)

        def count(name: str) -> float:
            if name in everywhere:
                return s.num_hidden_layers
            return (
                s.num_hidden_layers - routed
                if name in dense
                else routed * used
                if ".*." in name
                else routed
            )

        return {name: count(name) for name in names}

    def linear_modules(self, config: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
        """See `Family.linear_modules`; every expert counts."""
        s, shapes, found = (
            self.shape(config),
            self.linear_shapes(config),
            dict[str, tuple[int, int]](),
        )
        if s.experts is None:
            return super().linear_modules(config)
        everywhere, dense = (self.q, self.k, self.v, self.o), (self.gate, self.up, self.down)
        for index in range(s.num_hidden_layers):
            for name, shape in shapes.items():
                if name not in everywhere and (name in dense) == (index in s.experts.layers):
                    continue
                numbers = range(s.experts.count) if ".*." in name else (0,)
                found |= {
                    self.full(index, name.replace("*", str(number))): shape for number in numbers
                }
        return found

    def parameters(self, config: Mapping[str, Any]) -> int:
        """See `Family.parameters`."""
        s = self.shape(config)
        if s.experts is None:
            return super().parameters(config)
        routers = s.experts.count + (1 if self.shared else 0)
        return super().parameters(config) + len(s.experts.layers) * routers * s.hidden_size

    def resized(
        self,
        config: Mapping[str, Any],
        *,
        heads: int,
        kv_heads: int,
        ffn: int,
        layers: Sequence[int],
        experts: int = 0,
    ) -> dict[str, Any]:
        """See `Family.resized`; which layers are dense is spelled out, as "every second" would not survive the loss of one."""
        small = super().resized(config, heads=heads, kv_heads=kv_heads, ffn=ffn, layers=layers)
        routed = self.expert_layers(config)
        if len(routed) < int(config["num_hidden_layers"]):
            small |= {
                "decoder_sparse_step": 1,
                "mlp_only_layers": [new for new, old in enumerate(layers) if old not in routed],
            }
        have = self.experts(config)
        return self.with_experts(small, experts or have.count) if have else small

    def with_experts(self, config: Mapping[str, Any], count: int) -> dict[str, Any]:
        """The config.json with another number of experts in every layer that has some."""
        return {**config, **dict.fromkeys(self.count_keys, count)}

    def routed(self, layer: nn.Module) -> bool:
        """Whether a decoder layer has experts."""
        return has_module(layer, self.expert_pool)

    @property
    def shared_groups(self) -> tuple[tuple[str, ...], ...]:
        """The linear layers of the shared expert, those that read the same input together; empty where there is none."""
        gate, up, down = (f"{self.shared}.{part}" for part in self.stored_projections)
        return ((gate, up), (down,)) if self.shared else ()

    def groups_of(self, layer: nn.Module) -> tuple[tuple[str, ...], ...]:
        """See `Family.groups_of`; the shared expert's are among them."""
        return super().groups_of(layer) + (self.shared_groups if self.routed(layer) else ())

    def expert_groups(self, expert: int) -> tuple[tuple[str, str], tuple[str]]:
        """The stored names within a layer of an expert's gate and up projection, which read the same input, and of its down projection."""
        gate, up, down = (self.stored_name(expert, part) for part in self.stored_projections)
        return (gate, up), (down,)

    def weight_in(self, layer: nn.Module, name: str) -> Tensor:
        """See `Family.weight_in`; that of a routed expert is a part of the fused tensors."""
        expert = self.stored_expert(name)
        if expert is None:
            return super().weight_in(layer, name)
        number, part = expert
        fused: Any = layer.get_submodule(self.expert_pool)
        if part == self.stored_projections[2]:
            return fused.down_proj.detach()[number]
        return fused.gate_up_proj.detach()[number].chunk(2)[self.stored_projections.index(part)]

    def inside_expert(self, layer: nn.Module, expert: int, tokens: Tensor) -> Tensor:
        """What enters the down projection of an expert, [tokens, size], from what enters the expert, [tokens, width]."""
        (gate, up), _ = self.expert_groups(expert)
        pool: Any = layer.get_submodule(self.expert_pool)
        return pool.act_fn(tokens @ self.weight_in(layer, gate).t()) * (
            tokens @ self.weight_in(layer, up).t()
        )

    def routers(self, config: Mapping[str, Any]) -> tuple[str, ...]:
        """See `Family.routers`."""
        names = (self.stored_router, *([f"{self.shared}_gate"] if self.shared else []))
        return tuple(
            self.full(index, name) for index in self.expert_layers(config) for name in names
        )

    def stored_expert(self, name: str) -> tuple[int, str] | None:
        """The number of the expert that a stored name within a layer (`mlp.experts.3.up_proj`) is of, and what of it; else None."""
        found = re.fullmatch(rf"{re.escape(self.stored_mlp)}\.experts\.(\d+)\.(\w+)", name)
        return (int(found[1]), found[2]) if found else None

    def stored_name(self, expert: int, part: str) -> str:
        """The stored name within a layer of a projection of an expert."""
        return f"{self.stored_mlp}.experts.{expert}.{part}"

    @property
    def stored_router(self) -> str:
        """The router's name in files, within a layer."""
        return f"{self.stored_mlp}.gate"

    def stored(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A state dict as files have it, from one with fused experts [experts, 2 * size, width] and [experts, width, size]."""
        gate, up, down = self.stored_projections
        made: dict[str, Tensor] = {}
        for key, tensor in state.items():
            found = re.fullmatch(rf"(|.+\.){re.escape(self.mlp)}\.(.+)", key)
            start, pool = (found[1], found[2]) if found else ("", "")
            if pool in ("experts.gate_up_proj", "experts.down_proj"):
                parts = {gate: 0, up: 1} if pool.endswith("gate_up_proj") else {down: 0}
                halves = tensor.chunk(len(parts), dim=1)
                made |= {
                    f"{start}{self.stored_name(i, part)}.weight": halves[half][i].contiguous()
                    for i in range(len(tensor))
                    for part, half in parts.items()
                }
            else:
                made[f"{start}{self.stored_mlp}.{pool}" if pool else key] = tensor
        return made

    def fused(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `Family.fused`; tensors that are fused in the file already stay as they are."""
        import torch  # late: a plan needs shapes only

        gate, up, down = self.stored_projections
        made: dict[str, Tensor] = {}
        pools: dict[str, dict[str, dict[int, Tensor]]] = {}
        for key, tensor in state.items():
            found = re.fullmatch(rf"(|.+\.){re.escape(self.stored_mlp)}\.(.+)", key)
            expert = (
                re.fullmatch(rf"experts\.(\d+)\.({gate}|{up}|{down})\.weight", found[2])
                if found
                else None
            )
            if found and expert:
                pools.setdefault(f"{found[1]}{self.expert_pool}", {}).setdefault(expert[2], {})[
                    int(expert[1])
                ] = tensor
            else:
                made[f"{found[1]}{self.mlp}.{found[2]}" if found else key] = tensor
        for pool, parts in pools.items():
            gates, ups, downs = (
                [of for _, of in sorted(parts.get(part, {}).items())] for part in (gate, up, down)
            )
            if gates and ups:
                made[f"{pool}.gate_up_proj"] = torch.stack(
                    [torch.cat(pair) for pair in zip(gates, ups, strict=False)]
                )
            if downs:
                made[f"{pool}.down_proj"] = torch.stack(downs)
        return made
