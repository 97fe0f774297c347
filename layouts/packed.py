"""Low-bit weights: the integers, scales and zero points of one linear layer, and what every layout on disk can do with them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

__all__ = ["Int8Inputs", "Layout", "PackedLinear", "Scheme", "pack_words", "unpack_words"]


@dataclass(frozen=True)
class Scheme:
    """How the integers of a linear layer are chosen: bits of each, inputs that share a scale (-1: all), zero point in the middle or not."""

    bits: int = 4
    group_size: int = 128
    sym: bool = True

    def group(self, width: int) -> int:
        """Inputs that share a scale in a layer with `width` of them."""
        return width if self.group_size == -1 else self.group_size


@dataclass(frozen=True)
class Int8Inputs:
    """How the inputs of a layer are rounded to 8 bits: on one scale that was fixed beforehand, or (None) on a scale a token."""

    scale: float | None = None


@dataclass(frozen=True)
class PackedLinear:
    """One quantized linear layer.

    Attributes:
        integers: uint8 [out, in], each in [0, 2**bits).
        scales: float32 [out, groups], exactly the values that are stored.
        zeros: uint8 [out, groups]; 2**(bits - 1) everywhere when symmetric.
        bits: bits of an integer.
        group_size: consecutive input channels that share a scale; the whole width when -1 was asked for.
        inputs: how the layer's inputs are rounded; None where they stay in floating point.
    """

    integers: Tensor
    scales: Tensor
    zeros: Tensor
    bits: int
    group_size: int
    inputs: Int8Inputs | None = None

    @property
    def sym(self) -> bool:
        """Whether every zero point is the middle of the range."""
        return bool((self.zeros == 2 ** (self.bits - 1)).all())

    def rows(self, begin: int, end: int) -> PackedLinear:
        """Some of the outputs."""
        return PackedLinear(self.integers[begin:end], self.scales[begin:end], self.zeros[begin:end], self.bits, self.group_size)

    def dequantize(self) -> Tensor:
        """The float32 [out, in] weight that the integers stand for: (integer - zero) * scale."""
        out, width = self.integers.shape
        grouped = self.integers.view(out, -1, self.group_size).float()
        return ((grouped - self.zeros.float().unsqueeze(-1)) * self.scales.float().unsqueeze(-1)).view(out, width)


class Layout(ABC):
    """The tensors that stand for a packed layer in a checkpoint, and the block of config.json that tells readers about them."""

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
        """Shapes and dtypes of what `write` gives for a layer [outputs, width], as tensors on the meta device."""

    @abstractmethod
    def write(self, packed: PackedLinear) -> dict[str, Tensor]:
        """The tensors of a packed layer."""

    @abstractmethod
    def read(self, parts: Mapping[str, Tensor], scheme: Scheme, name: str) -> PackedLinear:
        """A packed layer from its tensors.

        Raises:
            UsageError: naming the layer, where the tensors hold what a `PackedLinear` cannot say.
        """

    @abstractmethod
    def scheme(self, block: Mapping[str, Any], name: str) -> Scheme:
        """What the block of config.json says about the layer of this name."""

    @abstractmethod
    def config(self, scheme: Scheme, damp: float, kept: Sequence[str] = ()) -> dict[str, Any]:
        """The block of config.json for readers of the layout.

        Args:
            scheme: of the packed layers.
            damp: of the Hessian, where the layout has a place for it.
            kept: full names of the linear layers that stay in floating point.
        """

    def files(self, block: Mapping[str, Any]) -> dict[str, Any]:
        """JSON files that readers of the layout expect beside config.json, from the block in it, by name."""
        return {}

    def names(self, keys: Mapping[str, Any]) -> list[str]:
        """The module names of the packed layers among the keys of a state dict, in its order."""
        ending = f".{self.marker}"
        return [key.removesuffix(ending) for key in keys if key.endswith(ending)]

    def take(self, state: dict[str, Tensor], block: Mapping[str, Any], name: str) -> PackedLinear:
        """A packed layer out of a state dict, which loses its tensors."""
        return self.read(
            {part: state.pop(f"{name}.{part}") for part in self.parts if f"{name}.{part}" in state}, self.scheme(block, name), name
        )


def pack_words(values: Tensor, bits: int) -> Tensor:
    """Pack uint8 [rows * per_word, columns] into int32 [rows, columns], lowest bits first along the first axis."""
    per_word = 32 // bits
    words = values.long().view(-1, per_word, values.shape[1])
    shifts = (torch.arange(per_word) * bits).view(1, -1, 1)
    return _wrap_int32((words << shifts).sum(1))


def _wrap_int32(values: Tensor) -> Tensor:
    return torch.where(values >= 2**31, values - 2**32, values).to(torch.int32)


def unpack_words(words: Tensor, bits: int) -> Tensor:
    """Undo `pack_words`: int32 [rows, columns] to uint8 [rows * per_word, columns]."""
    per_word = 32 // bits
    shifts = (torch.arange(per_word, device=words.device) * bits).view(1, -1, 1)
    values = (words.long().unsqueeze(1) >> shifts) & (2**bits - 1)
    return values.reshape(-1, words.shape[1]).to(torch.uint8)
