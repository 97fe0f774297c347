"""Converts the tensors of experts between the form in files and the form in a loaded model.

Files hold three matrices for each expert. In memory a layer has
`gate_up_proj` [experts, 2 * size, width] and `down_proj` [experts, width, size].
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from .experts import ExpertsFFN

if TYPE_CHECKING:  # plans read sizes only, and torch takes seconds to import
    from torch import Tensor

__all__ = ["fuse_experts", "split_experts"]

GATE_UP = "gate_up_proj"
DOWN = "down_proj"
"""The fused tensors of a loaded layer."""


def split_experts(experts: ExpertsFFN, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict as files have it, from one whose experts may be fused.

    Args:
        experts: the block that the tensors are of; all layers with experts have the same.
        state: tensors of a model or of one decoder layer, by name.
    """
    gate, up, down = experts.projections
    made: dict[str, Tensor] = {}
    for key, tensor in state.items():
        found = re.fullmatch(rf"(|.+\.){re.escape(experts.name)}\.(.+)", key)
        start, inside = (found[1], found[2]) if found else ("", "")
        if inside in (f"experts.{GATE_UP}", f"experts.{DOWN}"):
            parts = {gate: 0, up: 1} if inside.endswith(GATE_UP) else {down: 0}
            halves = tensor.chunk(len(parts), dim=1)
            made |= {
                f"{start}{experts.expert_name(i, part)}.weight": halves[half][i].contiguous()
                for i in range(len(tensor))
                for part, half in parts.items()
            }
        else:
            made[f"{start}{experts.file_name}.{inside}" if inside else key] = tensor
    return made


def fuse_experts(experts: ExpertsFFN, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `split_experts`; tensors that are fused already stay as they are."""
    projections = "|".join(experts.projections)
    made: dict[str, Tensor] = {}
    pools: dict[str, dict[str, dict[int, Tensor]]] = {}
    for key, tensor in state.items():
        found = re.fullmatch(rf"(|.+\.){re.escape(experts.file_name)}\.(.+)", key)
        expert = (
            re.fullmatch(rf"experts\.(\d+)\.({projections})\.weight", found[2]) if found else None
        )
        if found and expert:
            parts = pools.setdefault(f"{found[1]}{experts.pool}", {})
            parts.setdefault(expert[2], {})[int(expert[1])] = tensor
        else:
            made[f"{found[1]}{experts.name}.{found[2]}" if found else key] = tensor
    for pool, parts in pools.items():
        made |= _fused(experts, pool, parts)
    return made


def _fused(
    experts: ExpertsFFN, pool: str, parts: Mapping[str, Mapping[int, Tensor]]
) -> dict[str, Tensor]:
    """The fused tensors of one layer, from its experts' matrices by projection and number."""
    import torch  # late: plans read sizes only

    gates, ups, downs = (
        [tensor for _, tensor in sorted(parts.get(part, {}).items())]
        for part in experts.projections
    )
    made: dict[str, Tensor] = {}
    if gates and ups:
        pairs = zip(gates, ups, strict=False)
        made[f"{pool}.{GATE_UP}"] = torch.stack([torch.cat(pair) for pair in pairs])
    if downs:
        made[f"{pool}.{DOWN}"] = torch.stack(downs)
    return made
