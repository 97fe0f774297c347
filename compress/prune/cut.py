"""Cuts the tensors of a model down to the parts that stay.

Pure functions on state dicts, of a whole model or of one layer at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...models import Architecture, AttentionSizes, CutAxis, Layer
from ...models.blocks import Unit
from .experts import cut_experts

__all__ = ["KeptParts", "cut", "cut_layer", "unit_channels"]


@dataclass(frozen=True)
class KeptParts:
    """The parts of a model that stay.

    The lists of lists have one entry for every layer of the *uncut* model, also for removed layers.

    Attributes:
        heads: query heads, ascending; the same number in every layer and every group that stays.
        neurons: FFN neurons, ascending; the same number in every layer.
        layers: layers, ascending.
        experts: experts, ascending; the same number in every layer of experts, none in a dense
            layer. Empty if all experts stay.
    """

    heads: list[list[int]]
    neurons: list[list[int]]
    layers: list[int]
    experts: list[list[int]] = field(default_factory=list[list[int]])

    def kv_heads(self, layer: int, sizes: AttentionSizes) -> list[int]:
        """The key/value heads of a layer that still serve a query head."""
        return sorted({head // sizes.group for head in self.heads[layer]})

    def units(self, layer: int, sizes: AttentionSizes) -> dict[Unit, list[int]]:
        """What stays of a layer, by the unit that its weights are cut in."""
        return {
            "heads": self.heads[layer],
            "kv_heads": self.kv_heads(layer, sizes),
            "neurons": self.neurons[layer],
        }

    def inputs(self, layer: Layer) -> dict[str, Tensor]:
        """The input channels that stay of each projection that reads heads or neurons.

        Returns:
            int64 [channels] by the name of the projection within the layer.
        """
        units = self.units(layer.index, layer.attention.sizes)
        return {
            axis.linear: unit_channels(units[axis.unit], axis.channels)
            for axis in layer.cut_axes
            if axis.axis == 1
        }

    def sizes(self, sizes: AttentionSizes) -> dict[str, int]:
        """The `heads`, `kv_heads` and `ffn` of layers that stay; `experts` if some are removed."""
        first = self.layers[0]
        left = {
            "heads": len(self.heads[first]),
            "kv_heads": len(self.kv_heads(first, sizes)),
            "ffn": len(self.neurons[first]),
        }
        return left | ({"experts": max(map(len, self.experts))} if self.experts else {})

    def routed(self, layer: int) -> list[int]:
        """The experts that stay in a layer; empty if none was removed."""
        return self.experts[layer] if self.experts else []

    def removed_heads(self, heads: int) -> list[list[int]]:
        """The removed query heads of each layer, of the `heads` that it had."""
        return [sorted(set(range(heads)) - set(kept)) for kept in self.heads]


def unit_channels(units: list[int], size: int) -> Tensor:
    """The channels of units that have `size` channels each: int64 [units * size]."""
    return (torch.tensor(units).unsqueeze(-1) * size + torch.arange(size)).flatten()


def cut(
    state: Mapping[str, Tensor], architecture: Architecture, kept: KeptParts
) -> tuple[dict[str, Tensor], Architecture]:
    """Cut a whole model: the smaller state dict and its architecture.

    Args:
        state: tensors of the whole model.
        architecture: of the uncut model.
        kept: what stays of it.
    """
    inside = f"{architecture.decoder_layers}."
    small = {key: tensor for key, tensor in state.items() if not key.startswith(inside)}
    left = architecture.resized(**kept.sizes(architecture.attention_sizes), layers=kept.layers)
    for new, old in zip(left.layers, kept.layers, strict=True):
        small |= cut_layer(state, architecture.layers[old], new, kept)
    return small, left


def cut_layer(
    state: Mapping[str, Tensor], old: Layer, new: Layer, kept: KeptParts
) -> dict[str, Tensor]:
    """The tensors of a decoder layer after the cut.

    Args:
        state: tensors of the uncut model; those of other layers are ignored.
        old: the layer in the uncut model.
        new: the same layer in the cut model; it gives the names of the result.
        kept: what stays.
    """
    units = kept.units(old.index, old.attention.sizes)
    start = f"{old.name}."
    inside = {
        key.removeprefix(start): tensor for key, tensor in state.items() if key.startswith(start)
    }
    small: dict[str, Tensor] = {}
    for key, tensor in cut_experts(inside, old, kept.routed(old.index)).items():
        name, _, part = key.rpartition(".")
        axes = [axis for axis in old.cut_axes if axis.linear == name]
        small[new.key(name, part)] = _kept_slice(tensor, part, axes, units) if axes else tensor
    return small


def _kept_slice(
    tensor: Tensor, part: str, axes: Sequence[CutAxis], units: Mapping[Unit, list[int]]
) -> Tensor:
    """The part of a weight or bias that belongs to the units that stay.

    Args:
        tensor: the weight or bias of a linear layer.
        part: `weight` or `bias`.
        axes: those of the layer; several, if it holds units of several kinds one after the other.
        units: what stays of each kind.
    """
    axis = axes[0].axis
    channels = torch.cat([one.first + unit_channels(units[one.unit], one.channels) for one in axes])
    if part == "bias":
        return tensor if axis == 1 else tensor[channels].clone()
    return tensor.index_select(axis, channels)
