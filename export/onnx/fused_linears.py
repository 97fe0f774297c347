"""Linear layers in ONNX Runtime's own operators, which read packed 4-bit and 8-bit weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from ...checkpoints.layouts import PackedLinear
from ...errors import Refused
from .linears import Linears

__all__ = ["DOMAIN", "FusedLinears"]

DOMAIN = "com.microsoft"
FP32, INT8 = 1, 4
"""Values of `accuracy_level`: float products, or integer products with inputs rounded to 8 bits."""
BLOCKS = (128, 64, 32, 16)
FINE_BLOCKS = (32, 16)
"""For `int8-dynamic`, where inputs are rounded too. On Gemma 3 270M blocks of 32 cost 0.2 % of
perplexity, blocks of 128 1.2 %."""
SIGNS = {4: 8, 8: 128}
"""Default zero points of the operators, by bits."""


def rounded(weight: torch.Tensor, name: str, blocks: Sequence[int] = FINE_BLOCKS) -> PackedLinear:
    """Round a float32 weight [out, in] to symmetric 8 bits, with a scale for each block of inputs.

    Args:
        weight: the weight.
        name: its name, for the message.
        blocks: block sizes in order of preference; the first that divides `in` is used.

    Raises:
        Refused: no block size divides the number of inputs.
    """
    width = weight.shape[1]
    block = next((size for size in blocks if width % size == 0), 0)
    if not block:
        raise Refused(
            f"{name}: {width} inputs do not divide into blocks of 16",
            "prune to a multiple of 16, or --format onnx",
        )
    groups = weight.view(len(weight), -1, block)
    scales = groups.abs().amax(-1).clamp_min(1e-12) / 127
    integers = (
        (groups / scales.unsqueeze(-1))
        .round_()
        .add_(128)
        .clamp_(1, 255)
        .to(torch.uint8)
        .view_as(weight)
    )
    return PackedLinear(
        integers, scales, torch.full(scales.shape, 128, dtype=torch.uint8), 8, block
    )


def packed_bytes(packed: PackedLinear) -> torch.Tensor:
    """The integers as the operators read them: uint8 [out, in * bits / 8], lower nibble first."""
    if packed.bits == 8:
        return packed.integers
    pairs = packed.integers.view(len(packed.integers), -1, 2)
    return pairs[..., 0] | (pairs[..., 1] << 4)


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
            outputs = [self.product(value, _joined(layers), modules[0])]
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
                return rounded(self._weights.dense(module), module)
        elif self._precision.linear != "int4" or not self._weights.is_packed(module):
            return None
        packed = self._weights.packed(module)
        width = packed.integers.shape[1]
        if packed.bits not in SIGNS or not packed.sym or packed.g_idx is not None:
            what = (
                "groups are permuted"
                if packed.g_idx is not None
                else f"{packed.bits}-bit weights, symmetric: {packed.sym}"
            )
            raise Refused(
                f"{module}: {what}; ONNX Runtime's kernels take symmetric 4 and 8 bits",
                "quantize again with static groups",
            )
        block = next((size for size in BLOCKS if packed.group_size % size == 0), 0)
        if not block:
            raise Refused(
                f"{module}: groups of {packed.group_size}; blocks are multiples of 16",
                "quantize again with --group-size 128",
            )
        scales = packed.scales.repeat_interleave(packed.group_size // block, 1)
        zeros = torch.full(scales.shape, SIGNS[packed.bits], dtype=torch.uint8)
        assert scales.shape[1] * block == width
        return PackedLinear(packed.integers, scales, zeros, packed.bits, block)

    def packed_table(self, name: str) -> PackedLinear | None:
        """The embedding or the head for `MatMulNBits`; None: it stays in floating point."""
        packed = self.packed(name)
        if packed is None and self._precision.packs_tables:
            return rounded(self._weights.dense(name), name, BLOCKS)
        return packed

    def planes(self, packed: PackedLinear) -> dict[str, PackedLinear]:
        """Parts whose sum is the packed weight, by the suffix of their names.

        Usually there is one part. 8-bit weights with float inputs are split into their upper and
        lower 4 bits: ONNX Runtime has a kernel for those, and would expand 8-bit weights at every
        call.
        """
        if packed.bits == 4 or self._precision.rounds_inputs:
            return {"": packed}
        high = PackedLinear(
            packed.integers >> 4,
            packed.scales * 16,
            torch.full_like(packed.zeros, SIGNS[4]),
            4,
            packed.group_size,
        )
        low = PackedLinear(
            packed.integers & 15,
            packed.scales,
            torch.zeros_like(packed.zeros),
            4,
            packed.group_size,
        )
        return {".high": high, ".low": low}

    def store(
        self, plane: PackedLinear, name: str, shape: Sequence[int] | None = None
    ) -> list[str]:
        """Write a plane of `planes`.

        Returns:
            The names of its bytes [out, in * bits / 8], its scales, and its zero points unless they
            are the default of the operators.
        """
        names = [self._graph.weight(name, packed_bytes(plane).numpy(), shape=shape)]
        names.append(self._graph.weight(f"{name}_scale", plane.scales.contiguous().numpy()))
        if int(plane.zeros[0, 0]) != SIGNS[plane.bits]:
            assert not plane.zeros.any(), "see planes"
            rows, blocks = plane.zeros.shape
            names.append(
                self._graph.weight(
                    f"{name}_zero", np.zeros((rows, -(-blocks * plane.bits // 8)), np.uint8)
                )
            )
        return names

    def product(
        self,
        value: str,
        packed: PackedLinear,
        name: str,
        planes: Mapping[str, Sequence[str]] | None = None,
    ) -> str:
        """`value` times a packed weight.

        Args:
            value: the input of the product.
            packed: the weight.
            name: name of the weight.
            planes: what `store` returned for each plane, if the weight is written already.
        """
        parts = []
        for suffix, plane in self.planes(packed).items():
            out, width = plane.integers.shape
            size = plane.group_size
            shape = (out, width // size, size * plane.bits // 8)
            weight = f"{name}.weight{suffix}"
            if planes:
                data, *rest = planes[suffix]
                names = [self._graph.alias(weight, data, shape), *rest]
            else:
                names = self.store(plane, weight, shape)
            self.low_bit += 1
            parts.append(
                self._graph.node(
                    "MatMulNBits",
                    value,
                    *names,
                    domain=DOMAIN,
                    K=width,
                    N=out,
                    bits=plane.bits,
                    block_size=size,
                    accuracy_level=self._level,
                )
            )
        return parts[0] if len(parts) == 1 else self._graph.node("Add", *parts)

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
