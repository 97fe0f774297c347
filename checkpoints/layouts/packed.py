"""Low-bit weights of a linear layer in memory, and the base class of their layouts on disk."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..packing import METHODS
from ..scheme import Scheme, values_together

__all__ = [
    "Int8Inputs",
    "Layout",
    "PackedLinear",
    "pack_words",
    "unpack_words",
]


@dataclass(frozen=True)
class Int8Inputs:
    """How a layer's inputs are rounded to 8 bits: with a fixed scale; None: one scale per token."""

    scale: float | None = None


@dataclass(frozen=True)
class PackedLinear:
    """One quantized linear layer.

    Attributes:
        integers: uint8 [out, in], each in [0, 2**bits).
        scales: float32 [out, groups], exactly the values that are stored.
        zeros: uint8 [out, groups]; 2**(bits - 1) everywhere when symmetric.
        bits: bits of an integer.
        group_size: input channels that share a scale; the whole width when -1 was asked for.
        inputs: how the layer's inputs are rounded; None where they stay in floating point.
        g_idx: int32 [in], the group of each input channel; None: groups are consecutive channels.
    """

    integers: Tensor
    scales: Tensor
    zeros: Tensor
    bits: int
    group_size: int
    inputs: Int8Inputs | None = None
    g_idx: Tensor | None = None

    @property
    def sym(self) -> bool:
        """Whether every zero point is the middle of the range."""
        return bool((self.zeros == 2 ** (self.bits - 1)).all())

    def rows(self, begin: int, end: int) -> PackedLinear:
        """Some of the outputs."""
        return PackedLinear(
            self.integers[begin:end],
            self.scales[begin:end],
            self.zeros[begin:end],
            self.bits,
            self.group_size,
            self.inputs,
            self.g_idx,
        )

    def dequantize(self) -> Tensor:
        """The float32 [out, in] weight that the integers stand for: (integer - zero) * scale."""
        out, width = self.integers.shape
        if self.g_idx is not None:
            scales, zeros = (t.float()[:, self.g_idx.long()] for t in (self.scales, self.zeros))
            return (self.integers.float() - zeros) * scales
        grouped = self.integers.view(out, -1, self.group_size).to(torch.float32, copy=True)
        # In place, because the embedding is most of a small model.
        grouped -= self.zeros.float().unsqueeze(-1)
        grouped *= self.scales.float().unsqueeze(-1)
        return grouped.view(out, width)


class Layout(ABC):
    """A format of packed layers: their tensors in files, and their block in config.json."""

    method: ClassVar[str]
    """`quant_method` in config.json."""
    parts: ClassVar[tuple[str, ...]]
    """What the tensors of a packed layer are called, after the layer's name and a dot."""
    marker: ClassVar[str]
    """The one of them that only packed layers have."""
    rounds_inputs: ClassVar[bool] = False
    """Whether packed layers round their inputs too."""

    @abstractmethod
    def specs(self, outputs: int, width: int, scheme: Scheme) -> dict[str, Tensor]:
        """The tensors that `write` returns for a layer [outputs, width], on the meta device."""

    @abstractmethod
    def write(self, packed: PackedLinear) -> dict[str, Tensor]:
        """The tensors of a packed layer."""

    def joined(self, blocks: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The tensors of a layer from those of blocks of its outputs, in their order."""
        return {
            part: blocks[0][part] if part == "g_idx" else torch.cat([b[part] for b in blocks], -1)
            for part in blocks[0]
        }

    @abstractmethod
    def read(self, parts: Mapping[str, Tensor], scheme: Scheme, name: str) -> PackedLinear:
        """A packed layer from its tensors.

        Raises:
            UsageError: naming the layer, if a `PackedLinear` cannot hold what the tensors say.
        """

    def scheme(self, block: Mapping[str, Any], name: str) -> Scheme:
        """How the layer of this name is quantized, by the block of config.json.

        Raises:
            Refused: it says something that is not read here.
            UsageError: a field is missing.
        """
        return METHODS[self.method](block, name, "config.json")

    @abstractmethod
    def config(self, scheme: Scheme, damp: float, kept: Sequence[str] = ()) -> dict[str, Any]:
        """The block of config.json for readers of the layout.

        Args:
            scheme: of the packed layers.
            damp: of the Hessian, where the layout has a place for it.
            kept: full names of the linear layers that stay in floating point.
        """

    def files(self, block: Mapping[str, Any]) -> dict[str, Any]:
        """JSON files that readers of the layout expect beside config.json, by name."""
        return {}

    def names(self, keys: Mapping[str, Any]) -> list[str]:
        """The module names of the packed layers among the keys of a state dict, in its order."""
        ending = f".{self.marker}"
        return [key.removesuffix(ending) for key in keys if key.endswith(ending)]

    def take(self, state: dict[str, Tensor], block: Mapping[str, Any], name: str) -> PackedLinear:
        """A packed layer out of a state dict, which loses its tensors."""
        return self.read(
            {part: state.pop(f"{name}.{part}") for part in self.parts if f"{name}.{part}" in state},
            self.scheme(block, name),
            name,
        )


def pack_words(values: Tensor, bits: int) -> Tensor:
    """Pack uint8 [rows, columns] into int32 [rows * bits / 32, columns], lowest bits first.

    An integer of 3 bits may lie across two words. `rows` is a multiple of `values_together(bits)`.
    """
    together = values_together(bits)
    values = values.view(-1, together, values.shape[1])
    words = torch.zeros(
        len(values), together * bits // 32, values.shape[2], dtype=torch.int64, device=values.device
    )
    for i in range(together):
        word, shift = divmod(i * bits, 32)
        shifted = values[:, i].long() << shift
        words[:, word] |= shifted & 0xFFFFFFFF
        if shift + bits > 32:
            words[:, word + 1] |= shifted >> 32
    return _wrap_int32(words.view(-1, words.shape[2]))


def _wrap_int32(values: Tensor) -> Tensor:
    return torch.where(values >= 2**31, values - 2**32, values).to(torch.int32)


def unpack_words(words: Tensor, bits: int) -> Tensor:
    """Undo `pack_words`: int32 [words, columns] to uint8 [words * 32 / bits, columns]."""
    together = values_together(bits)
    stream = words.long().view(-1, together * bits // 32, words.shape[1]) & 0xFFFFFFFF
    values = torch.empty(
        len(stream), together, words.shape[1], dtype=torch.uint8, device=words.device
    )
    for i in range(together):
        word, shift = divmod(i * bits, 32)
        found = stream[:, word] >> shift
        if shift + bits > 32:
            found = found | (stream[:, word + 1] << (32 - shift))
        values[:, i] = (found & (2**bits - 1)).to(torch.uint8)
    return values.view(-1, words.shape[1])
