"""Write the decoder in ONNX Runtime's own operators: fewer nodes, and a cache written in place.

Differences from the portable graph of `decoder`:

- Projections that read the same value are one product (`fused_linears`).
- Residual sum and norm are one node.
- Attention is one node, `GroupQueryAttention`. It can use the same memory for past and present.
- A packed embedding stays packed, and a tied head reads the same bytes.

Positions and padding work as in the portable graph: the rotary angles come from `position_ids`, and
the mask is added to the scores. By default `GroupQueryAttention` expects padding on the right and
counts positions from zero.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import TensorProto

from ...errors import Refused
from ...models import Architecture, Attention, DenseFFN, Layer, Norm, PositionScale
from .builder import GraphBuilder
from .cut import Cut
from .decoder import Decoder
from .fused_linears import DOMAIN, FusedLinears
from .masks import BOOL, FLOAT, INT64, MASKED, length
from .norms import NamedNorm, norm_scale, norm_shift
from .packed_tables import PackedTable, PackedTables, pack_table
from .precision import Precision
from .rotary import RotaryTable, write_position_scale
from .runtime import IN_PLACE
from .weights import Weights

__all__ = ["Fused"]


class Fused(Decoder):
    """Writes one decoder in ONNX Runtime's operators."""

    def __init__(
        self,
        graph: GraphBuilder,
        weights: Weights,
        architecture: Architecture,
        rotary: Mapping[str | None, RotaryTable],
        precision: Precision,
        cut: Cut,
    ) -> None:
        super().__init__(graph, weights, architecture, rotary, precision, cut)
        if self.cut.window:
            raise Refused(
                "a windowed cache is written in standard operators only",
                "leave --window out, or --format onnx",
            )
        self.linears = self.fused = FusedLinears(self.graph, self.weights, self.precision)
        self.graph.metadata[IN_PLACE] = "1"
        self.kept = "present_sequence_length"  # the whole buffer, if past and present share it
        self.tables = PackedTables(self.graph, self.fused)

    def _masks(self, ids: str, mask: str, windows: list[int]) -> dict[int, str]:
        """The mask of padding, [batch, 1, sequence, total].

        `GroupQueryAttention` itself applies causality and windows.
        """
        g = self.graph
        with g.at("mask"):
            total = length(g, mask)
            batch = g.node("Shape", ids, start=0, end=1)
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

    def _angles(self, positions: str, kind: str | None) -> tuple[str, str]:
        """Cosine and sine of every token, [batch * sequence, dim / 2]; see `places`."""
        g, half = self.graph, len(self.rotary[kind].frequencies)
        cosine, sine = super()._angles(positions, kind)
        with g.at(f"rotary.{kind}" if kind else "rotary"):
            cosine_rows = g.node("Reshape", cosine, g.constant([-1, half]))
            sine_rows = g.node("Reshape", sine, g.constant([-1, half]))
            return cosine_rows, sine_rows

    def _position_scale(self, positions: str, scale: PositionScale) -> str:
        """The factor of queries by their positions: [batch, sequence, 1], activation type."""
        with self.graph.at("position_scale"):
            value = write_position_scale(self.graph, positions, scale)
            return self.graph.cast(value, FLOAT, self.type)

    def _norm(self, value: str, named: NamedNorm) -> str:
        """See `Decoder._norm`."""
        simple = "Simplified" if named.norm.kind == "rms" else ""
        with self.graph.at(named.module):
            return self.graph.node(
                f"{simple}LayerNormalization",
                value,
                norm_scale(self.graph, self.weights, named),
                *norm_shift(self.graph, self.weights, named),
                axis=-1,
                epsilon=named.norm.epsilon,
                stash_type=1,
            )

    def _residual(
        self, hidden: str, value: str, layer: Layer, following: NamedNorm | None
    ) -> tuple[str, str]:
        """See `Decoder._residual`."""
        if following is None:
            return super()._residual(hidden, value, layer, following)
        g = self.graph
        simple = "Simplified" if following.norm.kind == "rms" else ""
        with g.at(following.module):
            normed, hidden = g.nodes(
                f"Skip{simple}LayerNormalization",
                value,
                hidden,
                norm_scale(g, self.weights, following),
                *norm_shift(g, self.weights, following),
                outputs=[None, "", "", f"{following.key}:sum"],
                domain=DOMAIN,
                epsilon=following.norm.epsilon,
            )[::3]
        return hidden, normed

    def _attention(
        self, value: str, layer: Layer, mask: str, angles: tuple[str, str] | None
    ) -> str:
        """See `Decoder._attention`."""
        g, attention = self.graph, layer.attention
        sizes = attention.sizes
        value = g.cast(value, FLOAT, self.type)
        q, k, v = self._project(value, layer, attention.q, attention.k, attention.v)
        with g.at(layer.full(attention.name)):
            query = self._rotated(q, layer, sizes.heads, attention.q_norm, angles)
            if attention.position_scale:
                query = g.node("Mul", query, self.scales[attention.position_scale])
            key = self._rotated(k, layer, sizes.kv_heads, attention.k_norm, angles)
            past = [f"past_key_values.{layer.index}.{part}" for part in ("key", "value")]
            present = [f"present.{layer.index}.{part}" for part in ("key", "value")]
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
                num_heads=sizes.heads,
                kv_num_heads=sizes.kv_heads,
                scale=attention.query_scale,
                local_window_size=attention.window or -1,
                **({"softcap": attention.softcap} if attention.softcap else {}),
            )[0]
        return self._project(mixed, layer, attention.o)[0]

    def _rotated(
        self,
        value: str,
        layer: Layer,
        heads: int,
        norm: Norm | None,
        angles: tuple[str, str] | None,
    ) -> str:
        """[batch, sequence, heads * head_dim], normed and with rotary positions."""
        attention = layer.attention
        if attention.norm_after_rotary:
            value = self._with_positions(value, attention, heads, angles)
            return self._normed_flat(value, layer, heads, norm)
        value = self._normed_flat(value, layer, heads, norm)
        return self._with_positions(value, attention, heads, angles)

    def _normed_flat(self, value: str, layer: Layer, heads: int, norm: Norm | None) -> str:
        """[batch, sequence, heads * head_dim], normed by head or whole, if `norm` is given."""
        g, attention = self.graph, layer.attention
        if norm is None or attention.whole:
            return self._normed(value, layer, norm)
        width = attention.sizes.head_dim
        value = g.node("Reshape", value, g.constant([0, 0, heads, width]))
        value = self._normed(value, layer, norm)
        return g.node("Reshape", value, g.constant([0, 0, heads * width]))

    def _with_positions(
        self, value: str, attention: Attention, heads: int, angles: tuple[str, str] | None
    ) -> str:
        """[batch, sequence, heads * head_dim] with rotary positions, if the layer has them."""
        rotary = attention.rotary
        if rotary is None or angles is None:
            return value
        partial = {"num_heads": heads, "rotary_embedding_dim": rotary.dim}
        return self.graph.nodes(
            "RotaryEmbedding",
            value,
            self.places,
            *angles,
            outputs=[None],
            domain=DOMAIN,
            interleaved=int(rotary.interleaved),
            **(partial if rotary.dim < attention.sizes.head_dim else {}),
        )[0]

    def _activation(self, value: str, ffn: DenseFFN) -> str:
        """See `Decoder._activation`."""
        if ffn.activation == "silu":
            return self.graph.node("QuickGelu", value, domain=DOMAIN, alpha=1.0)
        if ffn.activation != "gelu_tanh":
            return super()._activation(value, ffn)
        return self.graph.node("FastGelu", value, domain=DOMAIN)

    def _embed(self, ids: str) -> str:
        """See `Decoder._embed`; a packed embedding is read packed."""
        name = self.architecture.embedding
        packed = self._packed_table(name)
        if packed is None:
            return super()._embed(ids)
        with self.graph.at(name):
            return self._scaled_embedding(self.tables.embed(ids, packed, name))

    def _head(self, hidden: str) -> None:
        """See `Decoder._head`."""
        head = self.architecture.head
        own = f"{head}.weight" in self.weights or self.weights.is_packed(head)
        tied = self.architecture.tied or not own
        packed = None if tied else self._packed_table(head)
        if packed is None and not (tied and self.tables.has_embedding):
            return super()._head(hidden)
        with self.graph.at(head):
            product = (
                self.tables.head(hidden, packed, head) if packed else self.tables.tied_head(hidden)
            )
            self._logits(product)

    def _packed_table(self, name: str) -> PackedTable | None:
        """The embedding or the head in integers; None: it stays in floating point."""
        packed = self.fused.packed(name)
        if packed is not None:
            return PackedTable(packed)
        if self.precision.packs_tables:
            return pack_table(self.weights.tensor(f"{name}.weight"), name)
        return None
