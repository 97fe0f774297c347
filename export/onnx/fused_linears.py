"""Linear layers in ONNX Runtime's own operators, which read packed 4-bit and 8-bit weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from ...checkpoints.layouts import PackedLinear
from ...errors import Refused
from ...models.packed_tables import BLOCKS
from .linears import Linears
from .rounding import rounded

__all__ = ["DOMAIN", "FusedLinears", "Plane"]

DOMAIN = "com.microsoft"
FP32, INT8 = 1, 4
"""Values of `accuracy_level`: float products, or integer products with inputs rounded to 8 bits."""
FINE_BLOCKS = (32, 16)
"""For `int8-dynamic`, where inputs are rounded too. On Gemma 3 270M blocks of 32 cost 0.2 % of
perplexity, blocks of 128 1.2 %."""
SIGNS = {4: 8, 8: 128}
"""Default zero points of the operators, by bits."""


@dataclass(frozen=True)
class Plane:
    """A packed weight in the graph, or a part of it: the weight is the sum of its planes.

    Attributes:
        names: of its bytes, its scales and, unless they are the default of the operators, its zero
            points.
        outputs: rows of the weight.
        width: its columns.
        bits: bits of an integer.
        block: inputs that share a scale.
    """

    names: tuple[str, ...]
    outputs: int
    width: int
    bits: int
    block: int

    @property
    def blocked(self) -> tuple[int, int, int]:
        """The shape of the bytes as `MatMulNBits` reads them."""
        return self.outputs, self.width // self.block, self.block * self.bits // 8


def packed_rows(values: torch.Tensor, bits: int) -> NDArray[np.uint8]:
    """Integers [rows, n] as the operators read them: uint8 [rows, n * bits / 8], rounded up.

    Of two integers of 4 bits, the first is the lower nibble.
    """
    if bits == 8:
        return values.numpy()
    pairs = functional.pad(values, (0, values.shape[1] % 2)).unflatten(1, (-1, 2))
    return (pairs[..., 0] | (pairs[..., 1] << 4)).numpy()


class FusedLinears(Linears):
    """Joins linear layers that share an input into one product."""

    def apply(self, value: str, modules: Sequence[str]) -> list[str]:
        """See `Linears.apply`. Packed layers of the same bits and groups become one product."""
        layers = {module: self.packed(module) for module in modules}
        outputs = dict[str, str]()
        kinds = [_kind(layer) for layer in layers.values()]
        for kind in dict.fromkeys(kinds):
            alike = [module for module, own in zip(modules, kinds, strict=True) if own == kind]
            packed = [layer for module in alike if (layer := layers[module])]
            if packed:
                outputs |= zip(alike, self._together(value, alike, packed), strict=True)
            else:
                outputs |= zip(alike, super().apply(value, alike), strict=True)
        return [outputs[module] for module in modules]

    def _together(
        self, value: str, modules: Sequence[str], layers: Sequence[PackedLinear]
    ) -> list[str]:
        """The outputs of packed layers of the same bits and groups, by one product."""
        with self._graph.at(modules[0]):
            planes = self.store(_joined(layers), f"{modules[0]}.weight")
            outputs = [self.product(value, planes)]
            if len(modules) > 1:
                sizes = self._graph.constant([len(layer.integers) for layer in layers])
                outputs = self._graph.nodes(
                    "Split", outputs[0], sizes, outputs=[None] * len(modules), axis=-1
                )
        return [
            self._biased(output, module) for output, module in zip(outputs, modules, strict=True)
        ]

    def packed(self, module: str) -> PackedLinear | None:
        """The weight of a layer for `MatMulNBits`: as stored, or rounded to 8 bits; None: floats.

        Raises:
            Refused: packed weights that the operators cannot read.
        """
        if self._precision.linear == "int8-dynamic":
            if not self._weights.is_packed(module):
                return rounded(self._weights.dense(module), module, 8, FINE_BLOCKS)
        elif self._precision.linear != "int4" or not self._weights.is_packed(module):
            return None
        packed = self._weights.packed(module)
        width = packed.integers.shape[1]
        if packed.bits not in SIGNS or packed.g_idx is not None:
            what = f"{packed.bits}-bit weights" if packed.g_idx is None else "groups are permuted"
            raise Refused(
                f"{module}: {what}; ONNX Runtime's kernels take 4 and 8 bits in static groups",
                "quantize again with --bits 4 and static groups",
            )
        block = next((size for size in BLOCKS[8] if packed.group_size % size == 0), 0)
        if not block:
            raise Refused(
                f"{module}: groups of {packed.group_size}; blocks are multiples of 16",
                "quantize again with --group-size 128",
            )
        scales, zeros = (
            side.repeat_interleave(packed.group_size // block, 1)
            for side in (packed.scales, packed.zeros)
        )
        assert scales.shape[1] * block == width
        return PackedLinear(packed.integers, scales, zeros, packed.bits, block)

    def store(self, packed: PackedLinear, name: str, blocked: bool = True) -> list[Plane]:
        """Write a packed weight.

        Usually it is one plane. 8-bit weights with float inputs are split into their upper and
        lower 4 bits: ONNX Runtime has a kernel for those, and would expand 8-bit weights at every
        call.

        Args:
            packed: the weight.
            name: its name in the graph.
            blocked: its bytes have the shape that `MatMulNBits` reads; else [out, in * bits / 8].
        """
        if packed.bits == 4 or self._precision.rounds_inputs:
            return [self._store(packed, name, blocked)]
        high = PackedLinear(
            packed.integers >> 4,
            packed.scales * 16,
            packed.zeros >> 4,
            4,
            packed.group_size,
        )
        low = PackedLinear(
            packed.integers & 15,
            packed.scales,
            packed.zeros & 15,
            4,
            packed.group_size,
        )
        return [
            self._store(high, f"{name}.high", blocked),
            self._store(low, f"{name}.low", blocked),
        ]

    def _store(self, packed: PackedLinear, name: str, blocked: bool) -> Plane:
        g = self._graph
        outputs, width = packed.integers.shape
        plane = Plane((), outputs, width, packed.bits, packed.group_size)
        names = [
            g.weight(
                name,
                packed_rows(packed.integers, packed.bits),
                shape=plane.blocked if blocked else None,
            ),
            g.weight(f"{name}_scale", packed.scales.contiguous().numpy()),
        ]
        if bool((packed.zeros != SIGNS[packed.bits]).any()):
            names.append(g.weight(f"{name}_zero", packed_rows(packed.zeros, packed.bits)))
        return replace(plane, names=tuple(names))

    def blocked(self, plane: Plane) -> Plane:
        """The same bytes, stored once, in the shape that `MatMulNBits` reads."""
        data, *rest = plane.names
        alias = self._graph.alias(f"{data}.blocked", data, plane.blocked)
        return replace(plane, names=(alias, *rest))

    def rows(self, ids: str, planes: Sequence[Plane]) -> str:
        """The rows `ids` of a weight that is not `blocked`."""
        return self._sum(
            self._graph.node(
                "GatherBlockQuantized",
                plane.names[0],
                ids,
                *plane.names[1:],
                domain=DOMAIN,
                bits=plane.bits,
                block_size=plane.block,
                gather_axis=0,
                quantize_axis=1,
            )
            for plane in planes
        )

    def product(self, value: str, planes: Sequence[Plane]) -> str:
        """`value` times a `blocked` weight."""
        self.low_bit += len(planes)
        return self._sum(
            self._graph.node(
                "MatMulNBits",
                value,
                *plane.names,
                domain=DOMAIN,
                K=plane.width,
                N=plane.outputs,
                bits=plane.bits,
                block_size=plane.block,
                accuracy_level=self._level,
            )
            for plane in planes
        )

    def _sum(self, values: Iterable[str]) -> str:
        return reduce(lambda total, value: self._graph.node("Add", total, value), values)

    @property
    def _level(self) -> int:
        return INT8 if self._precision.rounds_inputs else FP32


def _kind(layer: PackedLinear | None) -> tuple[int, int] | None:
    """What packed layers must share to become one product; None: floats."""
    return (layer.bits, layer.group_size) if layer else None


def _joined(layers: Sequence[PackedLinear]) -> PackedLinear:
    """Layers that read the same inputs as one layer, with their outputs concatenated."""
    parts = [
        torch.cat(tensors)
        for tensors in zip(*((p.integers, p.scales, p.zeros) for p in layers), strict=True)
    ]
    return PackedLinear(parts[0], parts[1], parts[2], layers[0].bits, layers[0].group_size)
