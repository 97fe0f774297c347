"""The decoder in ONNX Runtime's own operators: fewer nodes, products that read packed weights, a cache that is written in place.

Against the portable graph: the projections that read one value are one product, whose weights `MatMulNBits` reads 4 or 8 bits wide
where the checkpoint has them so; residual sum and norm are one node, and so is all of attention (`GroupQueryAttention`), which may be
given the same memory for past and present. A packed embedding stays packed, and a tied head reads the very same bytes.

Positions and padding are those of the portable graph: the rotary angles come from `position_ids`, and what the mask hides is added to
the scores. `GroupQueryAttention` by itself would take padding for being on the right, and count positions from zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from onnx import TensorProto

from ...checkpoints.layouts import PackedLinear
from ...errors import Refused
from ...models import Family
from .builder import GraphBuilder
from .cut import Cut
from .decoder import BOOL, FLOAT, INT64, MASKED, Decoder
from .linears import Linears
from .precision import Precision
from .rotary import Rotary
from .runtime import IN_PLACE
from .weights import Weights

__all__ = ["Fused"]

DOMAIN = "com.microsoft"
FP32, INT8 = 1, 4
"""What a product computes in (`accuracy_level`): floats, or integers, for which inputs are rounded to 8 bits a block."""
BLOCKS = (128, 64, 32, 16)
FINE_BLOCKS = (32, 16)
"""Of weights that are rounded here, as inputs then are: blocks of 32 cost Gemma-3 270M 0.2 % of perplexity, of 128 1.2 %."""
SIGNS = {4: 8, 8: 128}
"""The zero points that the operators take where none is given."""


def rounded(weight: torch.Tensor, name: str) -> PackedLinear:
    """A float32 weight [out, in] in 8 bits, symmetric, with a scale a block of inputs.

    Raises:
        Refused: no block size divides its inputs.
    """
    width = weight.shape[1]
    block = next((size for size in FINE_BLOCKS if width % size == 0), 0)
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
    """The integers in the order the operators read them, uint8 [out, in * bits / 8]: of 4 bits, the lower first."""
    if packed.bits == 8:
        return packed.integers
    pairs = packed.integers.view(len(packed.integers), -1, 2)
    return pairs[..., 0] | (pairs[..., 1] << 4)


class FusedLinears(Linears):
    """Linear layers that share an input as one product."""

    def apply(self, value: str, modules: Sequence[str]) -> list[str]:
        """See `Linears.apply`."""
        layers = [self.packed(module) for module in modules]
        if not self._alike(layers):
            return super().apply(value, modules)
        with self._graph.at(modules[0]):
            joined = self.product(value, _joined([layer for layer in layers if layer]), modules[0])
            sizes = self._graph.constant([len(layer.integers) for layer in layers if layer])
            outputs = [joined]
            if len(modules) > 1:
                outputs = self._graph.nodes(
                    "Split", joined, sizes, outputs=[None] * len(modules), axis=-1
                )
        return [
            self._biased(output, module) for output, module in zip(outputs, modules, strict=True)
        ]

    def packed(self, module: str) -> PackedLinear | None:
        """What `MatMulNBits` can read of a layer: its own integers, or 8-bit ones where the precision rounds; None for floats.

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

    def _alike(self, layers: Sequence[PackedLinear | None]) -> bool:
        kinds = {(layer.bits, layer.group_size) if layer else None for layer in layers}
        return None not in kinds and len(kinds) == 1

    def planes(self, packed: PackedLinear) -> dict[str, PackedLinear]:
        """The parts that a packed weight is the sum of, by what their names end in.

        There is one, but of 8-bit weights whose inputs stay floats: ONNX Runtime has no kernel for these and would expand the weights at
        every call, where it has one for their upper and lower 4 bits.
        """
        if packed.bits == 4 or self._level == INT8:
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
        """Write a plane; the names of its bytes [out, in * bits / 8], scales and, unless operators take them anyway, zero points."""
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
        tables: Mapping[str, Sequence[str]] | None = None,
    ) -> str:
        """`value` times a packed weight, which is written as `name`, or was: `tables` then names what is there of each plane."""
        parts = []
        for end, plane in self.planes(packed).items():
            (out, width), size = plane.integers.shape, plane.group_size
            shape, named = (out, width // size, size * plane.bits // 8), f"{name}.weight{end}"
            names = (
                [self._graph.alias(named, tables[end][0], shape), *tables[end][1:]]
                if tables
                else self.store(plane, named, shape)
            )
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
        return INT8 if self._precision.limits.max_abs_diff is None else FP32


def _joined(layers: Sequence[PackedLinear]) -> PackedLinear:
    """Layers that read the same inputs as one, their outputs one after the other."""
    parts = [
        torch.cat(tensors)
        for tensors in zip(*((p.integers, p.scales, p.zeros) for p in layers), strict=True)
    ]
    return PackedLinear(parts[0], parts[1], parts[2], layers[0].bits, layers[0].group_size)


class Fused(Decoder):
    """Writes one decoder in ONNX Runtime's operators."""

    def __init__(
        self,
        graph: GraphBuilder,
        weights: Weights,
        family: Family,
        settings: Any,
        precision: Precision,
        cut: Cut,
    ) -> None:
        super().__init__(graph, weights, family, settings, precision, cut)
        if self.cut.window:
            raise Refused(
                "a windowed cache is written in standard operators only",
                "leave --window out, or --format onnx",
            )
        self.linears = self.fused = FusedLinears(self.graph, self.weights, self.precision)
        self.graph.metadata[IN_PLACE] = "1"
        self.kept = "present_sequence_length"  # all of the memory, where it is shared
        self.table: PackedLinear | None = None
        self.kept_planes: dict[str, list[str]] = {}

    def _masks(self, ids: str, mask: str, windows: list[int]) -> dict[int, str]:
        """What is added to the scores for padding, [batch, 1, sequence, total]; causality and windows are the operator's."""
        g = self.graph
        with g.at("mask"):
            total, batch = self._length(mask), g.node("Shape", ids, start=0, end=1)
            self.total = g.cast(total, INT64, TensorProto.INT32)
            last = g.cast(g.node("Sub", total, g.constant(1)), INT64, TensorProto.INT32)
            self.lengths = g.node("Expand", last, batch)
            dtype = np.float16 if self.type == TensorProto.FLOAT16 else np.float32
            hidden = g.node(
                "Where", g.cast(mask, INT64, BOOL), g.constant(0, dtype), g.constant(MASKED, dtype)
            )
            rows = g.node(
                "Concat",
                g.constant([1]),
                g.constant([1]),
                g.node("Shape", ids, start=1, end=2),
                g.constant([1]),
                axis=0,
            )
            bias = g.node("Expand", g.node("Unsqueeze", hidden, g.constant([1, 2])), rows)
            self.places = g.node(
                "Reshape",
                g.node("Range", g.constant(0), g.node("Size", ids), g.constant(1)),
                g.node("Shape", ids),
            )
        return dict.fromkeys(windows, bias)

    def _angles(self, positions: str, table: Rotary, kind: str | None) -> tuple[str, str]:
        """Cosine and sine of every token, [batch * sequence, head_dim / 2]: a table that `places` reads row by row."""
        g, half = self.graph, self.shape.head_dim // 2
        cosine, sine = super()._angles(positions, table, kind)
        with g.at(f"rotary.{kind}" if kind else "rotary"):
            return g.node("Reshape", cosine, g.constant([-1, half])), g.node(
                "Reshape", sine, g.constant([-1, half])
            )

    def _norm(self, value: str, key: str) -> str:
        """See `Decoder._norm`."""
        with self.graph.at(key.removesuffix(".weight")):
            epsilon = float(self.config["rms_norm_eps"])
            return self.graph.node(
                "SimplifiedLayerNormalization",
                value,
                self._scale(key),
                axis=-1,
                epsilon=epsilon,
                stash_type=1,
            )

    def _scale(self, key: str) -> str:
        return self.graph.weight(
            key, (self.weights.tensor(key).float() + self.family.norm_offset).numpy()
        )

    def _residual(
        self, hidden: str, value: str, layer: int, post_norm: str | None, then: str
    ) -> tuple[str, str]:
        """See `Decoder._residual`."""
        g = self.graph
        with g.at(f"{self.family.layers}.{layer}"):
            value = g.cast(value, self.type, FLOAT)
            if post_norm:
                value = self._norm(value, self.family.key(layer, post_norm))
        with g.at(then.removesuffix(".weight")):
            normed, hidden = g.nodes(
                "SkipSimplifiedLayerNormalization",
                value,
                hidden,
                self._scale(then),
                outputs=[None, "", "", f"{then}:sum"],
                domain=DOMAIN,
                epsilon=float(self.config["rms_norm_eps"]),
            )[::3]
        return hidden, normed

    def _attention(self, value: str, layer: int, mask: str, angles: tuple[str, str]) -> str:
        """See `Decoder._attention`."""
        g, f, s = self.graph, self.family, self.shape
        q, k, v = self._project(g.cast(value, FLOAT, self.type), layer, f.q, f.k, f.v)
        window = self.kinds[layer].window
        with g.at(f"{f.layers}.{layer}.{f.attention}"):
            query = self._turned(
                q, s.num_attention_heads, f.key(layer, f.q_norm) if f.q_norm else None, angles
            )
            key = self._turned(
                k, s.num_key_value_heads, f.key(layer, f.k_norm) if f.k_norm else None, angles
            )
            past = [f"past_key_values.{layer}.{part}" for part in ("key", "value")]
            present = [f"present.{layer}.{part}" for part in ("key", "value")]
            mixed = g.nodes(
                "GroupQueryAttention",
                query,
                key,
                v,
                *past,
                self.lengths,
                self.total,
                "",
                "",
                "",
                mask,
                outputs=[None, *present],
                domain=DOMAIN,
                num_heads=s.num_attention_heads,
                kv_num_heads=s.num_key_value_heads,
                scale=self.family.query_scale(self.config),
                local_window_size=window or -1,
            )[0]
        return self._project(mixed, layer, f.o)[0]

    def _turned(self, value: str, heads: int, norm: str | None, angles: tuple[str, str]) -> str:
        """[batch, sequence, heads * head_dim], normed a head where the family does, and turned by the positions."""
        g, width = self.graph, self.shape.head_dim
        if norm:
            value = g.node("Reshape", value, g.constant([0, 0, heads, width]))
            value = g.cast(self._norm(g.cast(value, self.type, FLOAT), norm), FLOAT, self.type)
            value = g.node("Reshape", value, g.constant([0, 0, heads * width]))
        return g.node("RotaryEmbedding", value, self.places, *angles, domain=DOMAIN)

    def _activation(self, value: str) -> str:
        """See `Decoder._activation`."""
        if self.family.activation(self.config) == "silu":
            return self.graph.node("QuickGelu", value, domain=DOMAIN, alpha=1.0)
        if self.family.activation(self.config) == "gelu_tanh":
            return self.graph.node("FastGelu", value, domain=DOMAIN)
        return super()._activation(value)

    def _embed(self, ids: str) -> str:
        """See `Decoder._embed`; a packed table is read packed."""
        g, name = self.graph, self.family.embedding
        packed = self.fused.packed(name)
        if packed is None:
            return super()._embed(ids)
        with g.at(name):
            parts = []
            for end, plane in self.fused.planes(packed).items():
                self.kept_planes[end] = self.fused.store(plane, f"{name}.weight{end}")
                data, *rest = self.kept_planes[end]
                parts.append(
                    g.node(
                        "GatherBlockQuantized",
                        data,
                        ids,
                        *rest,
                        domain=DOMAIN,
                        bits=plane.bits,
                        block_size=plane.group_size,
                        gather_axis=0,
                        quantize_axis=1,
                    )
                )
            hidden = parts[0] if len(parts) == 1 else g.node("Add", *parts)
            self.table = packed
            if self.family.scale_embedding:
                hidden = g.node("Mul", hidden, g.constant(self.shape.hidden_size**0.5, np.float32))
            return hidden

    def _head(self, hidden: str) -> None:
        """See `Decoder._head`."""
        g, f = self.graph, self.family
        own = f"{f.head}.weight" in self.weights or self.weights.is_packed(f.head)
        tied = self.shape.tied or not own
        packed = self.table if tied else self.fused.packed(f.head)
        if packed is None:
            return super()._head(hidden)
        with g.at(f.head):
            g.node(
                "Cast",
                self.fused.product(hidden, packed, f.head, self.kept_planes if tied else None),
                to=FLOAT,
                output="logits",
            )
