"""The decoder as an ONNX graph, written node by node from a checkpoint: no tracing, and no model in memory.

Inputs and outputs have Optimum's names: `input_ids`, `attention_mask`, `position_ids` and `past_key_values.N.key|value`
go in, `logits` and `present.N.key|value` come out. Batch, sequence and past are dynamic, and the past may be empty. Only
standard operators are used, because TensorRT has no importer for ONNX Runtime's own (`fused` writes those). Residual stream, norms
and softmax are float32 in every precision: Gemma's residual stream leaves the range of fp16, and the widths involved cost nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import pi, sqrt
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from ...errors import Refused
from ...models import Family, Shape
from .builder import GraphBuilder
from .cut import Cut
from .linears import Linears, stored
from .precision import Precision
from .rotary import Rotary, rotary_tables
from .runtime import KEPT
from .weights import Weights

__all__ = ["BOOL", "FLOAT", "INT64", "MASKED", "Decoder"]

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
# What a masked score is lowered by. Finite even where a runtime computes softmax in fp16, so that a row with nothing to
# attend to (padding on the left) comes out as some average and never as NaN.
MASKED = -30000.0
TOTAL = "past_sequence_length + sequence_length"


class Decoder:
    """Writes one decoder; every method adds nodes and returns the names of their outputs."""

    def __init__(
        self,
        graph: GraphBuilder,
        weights: Weights,
        family: Family,
        settings: Any,
        precision: Precision,
        cut: Cut,
    ) -> None:
        self.graph, self.weights, self.family, self.precision, self.cut = (
            graph,
            weights,
            family,
            precision,
            cut,
        )
        self.config: Mapping[str, Any] = settings.to_dict()
        self.shape: Shape = family.shape(self.config)
        self.kinds = family.layer_kinds(self.config)
        self.tables = rotary_tables(
            settings, family, dict.fromkeys(k.rope for k in self.kinds), self.shape.head_dim
        )
        self.type = precision.activations
        self.linears = Linears(graph, weights, precision)
        longest = max(kind.window for kind in self.kinds)
        if 0 < cut.window < longest:
            raise Refused(
                f"a window of {cut.window}: layers of this model look {longest} positions back",
                f"give --window {longest} or more",
            )
        self.kept = "kept_sequence_length" if cut.window else TOTAL
        self._bounds: tuple[str, str] | None = None
        if cut.window:
            graph.metadata[KEPT] = f"{cut.sinks},{cut.window}"

    def write(self) -> None:
        """The whole graph."""
        f = self.family
        ids, mask, positions = self._declare_inputs()
        windows = list(dict.fromkeys(kind.window for kind in self.kinds))
        masks = self._masks(ids, mask, windows)
        angles = {kind: self._angles(positions, table, kind) for kind, table in self.tables.items()}
        hidden = self._embed(ids)
        value = self._norm(hidden, f.key(0, f.attention_norm))
        entries = [f.key(layer, f.attention_norm) for layer in range(1, len(self.kinds))]
        for layer, (kind, then) in enumerate(
            zip(self.kinds, [*entries, f"{f.final_norm}.weight"], strict=True)
        ):
            value = self._attention(value, layer, masks[kind.window], angles[kind.rope])
            hidden, value = self._residual(
                hidden, value, layer, f.attention_post_norm, f.key(layer, f.mlp_norm)
            )
            value = self._mlp(value, layer)
            hidden, value = self._residual(hidden, value, layer, f.mlp_post_norm, then)
        self._head(self._last(value) if self.cut.last_logits else value)

    def _last(self, value: str) -> str:
        """The last position of [batch, sequence, hidden]."""
        g = self.graph
        with g.at(self.family.head):
            return g.node(
                "Slice",
                value,
                g.constant([-1]),
                g.constant([np.iinfo(np.int64).max]),
                g.constant([1]),
            )

    def _declare_inputs(self) -> tuple[str, str, str]:
        g, s = self.graph, self.shape
        ids = g.input("input_ids", INT64, ["batch_size", "sequence_length"])
        mask = g.input("attention_mask", INT64, ["batch_size", TOTAL])
        positions = g.input("position_ids", INT64, ["batch_size", "sequence_length"])
        for layer in range(s.num_hidden_layers):
            for part in ("key", "value"):
                cache = ["batch_size", s.num_key_value_heads, "past_sequence_length", s.head_dim]
                g.input(f"past_key_values.{layer}.{part}", self.type, cache)
        g.output(
            "logits",
            FLOAT,
            ["batch_size", 1 if self.cut.last_logits else "sequence_length", s.vocab_size],
        )
        for layer in range(s.num_hidden_layers):
            for part in ("key", "value"):
                g.output(
                    f"present.{layer}.{part}",
                    self.type,
                    ["batch_size", s.num_key_value_heads, self.kept, s.head_dim],
                )
        return ids, mask, positions

    def _length(self, value: str) -> str:
        """The size of axis 1, as a scalar."""
        g = self.graph
        return g.node("Squeeze", g.node("Shape", value, start=1, end=2), g.constant([0]))

    def _masks(self, ids: str, mask: str, windows: list[int]) -> dict[int, str]:
        """For each window, what is added to the scores: float32 [batch, 1, sequence, total], 0 or MASKED."""
        g = self.graph
        with g.at("mask"):
            total = self._length(mask)
            past = g.node("Sub", total, self._length(ids))
            zero, one = g.constant(0), g.constant(1)
            queries = g.node("Unsqueeze", g.node("Range", past, total, one), g.constant([1]))
            keys = g.node("Unsqueeze", g.node("Range", zero, total, one), g.constant([0]))
            real = g.node("Unsqueeze", g.cast(mask, INT64, BOOL), g.constant([1, 2]))
            causal = g.node("LessOrEqual", keys, queries)
            if self.cut.window:
                recent = g.node(
                    "Greater", keys, g.node("Sub", queries, g.constant(self.cut.window))
                )
                causal = g.node(
                    "And",
                    causal,
                    g.node("Or", recent, g.node("Less", keys, g.constant(self.cut.sinks))),
                )
            biases = {}
            for window in windows:
                seen = causal
                if window:  # a window of n holds the position itself and the n - 1 before it
                    near = g.node("Greater", keys, g.node("Sub", queries, g.constant(window)))
                    seen = g.node("And", causal, near)
                allowed = g.node("And", seen, real)
                biases[window] = g.node(
                    "Where", allowed, g.constant(0, np.float32), g.constant(MASKED, np.float32)
                )
        return biases

    def _angles(self, positions: str, table: Rotary, kind: str | None) -> tuple[str, str]:
        """Cosine and sine of the angles, [batch, 1, sequence, head_dim / 2] in the activation type."""
        g = self.graph
        with g.at(f"rotary.{kind}" if kind else "rotary"):
            frequencies = g.weight(f"{self.family.rotary}.{kind or 'all'}", table.frequencies)
            columns = g.node("Unsqueeze", g.cast(positions, INT64, FLOAT), g.constant([1, 3]))
            angle = g.node("Mul", columns, frequencies)
            cosine, sine = g.node("Cos", angle), g.node("Sin", angle)
            if table.scaling != 1.0:
                scaling = g.constant(table.scaling, np.float32)
                cosine, sine = g.node("Mul", cosine, scaling), g.node("Mul", sine, scaling)
            return g.cast(cosine, FLOAT, self.type), g.cast(sine, FLOAT, self.type)

    def _embed(self, ids: str) -> str:
        """The embeddings of the tokens, float32 [batch, sequence, hidden]."""
        g, name = self.graph, f"{self.family.embedding}.weight"
        with g.at(self.family.embedding):
            table = g.weight(
                name, stored(self.weights.dense(self.family.embedding), self.type, name)
            )
            hidden = g.cast(g.node("Gather", table, ids), self.type, FLOAT)
            if self.family.scale_embedding:
                hidden = g.node("Mul", hidden, g.constant(sqrt(self.shape.hidden_size), np.float32))
            return hidden

    def _norm(self, value: str, key: str) -> str:
        """RMS norm over the last axis of a float32 value; the result is float32."""
        g = self.graph
        with g.at(key.removesuffix(".weight")):
            weight = self.weights.tensor(key).float() + self.family.norm_offset
            square = g.reduce("ReduceMean", g.node("Pow", value, g.constant(2, np.float32)))
            root = g.node(
                "Sqrt", g.node("Add", square, g.constant(self.config["rms_norm_eps"], np.float32))
            )
            return g.node("Mul", g.node("Div", value, root), g.weight(key, weight.numpy()))

    def _residual(
        self, hidden: str, value: str, layer: int, post_norm: str | None, then: str
    ) -> tuple[str, str]:
        """Add a block's output to the residual stream, which stays float32, and norm the sum by the weight `then`."""
        with self.graph.at(f"{self.family.layers}.{layer}"):
            value = self.graph.cast(value, self.type, FLOAT)
            if post_norm:
                value = self._norm(value, self.family.key(layer, post_norm))
            hidden = self.graph.node("Add", hidden, value)
        return hidden, self._norm(hidden, then)

    def _project(self, value: str, layer: int, *modules: str) -> list[str]:
        return self.linears.apply(
            value, [f"{self.family.layers}.{layer}.{module}" for module in modules]
        )

    def _heads(self, value: str, heads: int, norm: str | None) -> str:
        """[batch, sequence, heads * head_dim] as [batch, heads, sequence, head_dim], normed a head where the family does."""
        g = self.graph
        value = g.node("Reshape", value, g.constant([0, 0, heads, self.shape.head_dim]))
        if norm:
            value = g.cast(self._norm(g.cast(value, self.type, FLOAT), norm), FLOAT, self.type)
        return g.node("Transpose", value, perm=[0, 2, 1, 3])

    def _rotate(self, value: str, angles: tuple[str, str]) -> str:
        """Turn the two halves of each head against each other."""
        g, half = self.graph, self.shape.head_dim // 2
        cosine, sine = angles
        first, second = g.nodes(
            "Split", value, g.constant([half, half]), outputs=[None, None], axis=-1
        )
        left = g.node("Sub", g.node("Mul", first, cosine), g.node("Mul", second, sine))
        right = g.node("Add", g.node("Mul", second, cosine), g.node("Mul", first, sine))
        return g.node("Concat", left, right, axis=-1)

    def _attention(self, value: str, layer: int, mask: str, angles: tuple[str, str]) -> str:
        """Grouped-query attention over past and present, [batch, sequence, hidden] in the activation type.

        The query heads of a group are laid one below the other, so that each key/value head is read where it is
        and never repeated in memory.
        """
        g, f, s = self.graph, self.family, self.shape
        q, k, v = self._project(g.cast(value, FLOAT, self.type), layer, f.q, f.k, f.v)
        with g.at(f"{f.layers}.{layer}.{f.attention}"):
            norms = [f.key(layer, name) if name else None for name in (f.q_norm, f.k_norm)]
            query = self._rotate(self._heads(q, s.num_attention_heads, norms[0]), angles)
            key = self._rotate(self._heads(k, s.num_key_value_heads, norms[1]), angles)
            key = self._cached(key, layer, "key")
            values = self._cached(self._heads(v, s.num_key_value_heads, None), layer, "value")
            query = g.node(
                "Mul", query, g.constant(f.query_scale(self.config), _numpy_type(self.type))
            )
            query = g.node("Reshape", query, g.constant([0, s.num_key_value_heads, -1, s.head_dim]))
            scores = g.node("MatMul", query, g.node("Transpose", key, perm=[0, 1, 3, 2]))
            scores = g.node("Reshape", scores, g.constant([0, s.num_attention_heads, -1, 0]))
            scores = g.node("Add", g.cast(scores, self.type, FLOAT), mask)
            shares = g.cast(g.node("Softmax", scores, axis=-1), FLOAT, self.type)
            shares = g.node("Reshape", shares, g.constant([0, s.num_key_value_heads, -1, 0]))
            mixed = g.node(
                "Reshape",
                g.node("MatMul", shares, values),
                g.constant([0, s.num_attention_heads, -1, s.head_dim]),
            )
            merged = g.node("Transpose", mixed, perm=[0, 2, 1, 3])
            merged = g.node(
                "Reshape", merged, g.constant([0, 0, s.num_attention_heads * s.head_dim])
            )
        return self._project(merged, layer, f.o)[0]

    def _cached(self, value: str, layer: int, part: str) -> str:
        """Past and present together, as attention sees them; what the window leaves of them goes out."""
        g, cut = self.graph, self.cut
        past, present = f"past_key_values.{layer}.{part}", f"present.{layer}.{part}"
        if not cut.window:
            return g.node("Concat", past, value, axis=2, output=present)
        whole = g.node("Concat", past, value, axis=2)
        first = g.node("Slice", whole, g.constant([0]), g.constant([cut.sinks]), g.constant([2]))
        g.node(
            "Concat",
            first,
            g.node("Slice", whole, *self._recent(whole), g.constant([2])),
            axis=2,
            output=present,
        )
        return whole

    def _recent(self, whole: str) -> tuple[str, str]:
        """Where the window begins and ends in a cache, after the sinks; the cache of the first layer tells it for all."""
        g = self.graph
        if self._bounds is None:
            end = g.node("Shape", whole, start=2, end=3)
            begin = g.node(
                "Max",
                g.node("Sub", end, g.constant([self.cut.window])),
                g.constant([self.cut.sinks]),
            )
            self._bounds = begin, end
        return self._bounds

    def _mlp(self, value: str, layer: int) -> str:
        """The gated FFN, in the activation type."""
        f = self.family
        gate, up = self._project(self.graph.cast(value, FLOAT, self.type), layer, f.gate, f.up)
        with self.graph.at(f"{f.layers}.{layer}.{f.mlp}"):
            product = self.graph.node("Mul", self._activation(gate), up)
        return self._project(product, layer, f.down)[0]

    def _activation(self, value: str) -> str:
        g, name = self.graph, self.family.activation(self.config)
        if name == "silu":
            return g.node("Mul", value, g.node("Sigmoid", value))
        if name != "gelu_tanh":
            raise Refused(
                f"config.json: activation `{name}` is not supported",
                "models use silu or the tanh form of gelu",
            )

        def number(x: float) -> str:
            return g.constant(x, _numpy_type(self.type))

        # x (1 + c x²) keeps the sign of x where x² overflows fp16, so that tanh saturates and no NaN appears.
        inner = g.node(
            "Add", g.node("Mul", g.node("Mul", value, value), number(0.044715)), number(1.0)
        )
        inner = g.node("Tanh", g.node("Mul", g.node("Mul", value, inner), number(sqrt(2 / pi))))
        return g.node("Mul", g.node("Mul", value, number(0.5)), g.node("Add", inner, number(1.0)))

    def _head(self, hidden: str) -> None:
        """Logits in float32 from the normed hidden state; a tied head reads the embedding, which is stored once."""
        g, f, s = self.graph, self.family, self.shape
        value = g.cast(hidden, FLOAT, self.type)
        with g.at(f.head):
            if s.tied or not (f"{f.head}.weight" in self.weights or self.weights.is_packed(f.head)):
                result = g.node(
                    "MatMul", value, g.node("Transpose", f"{f.embedding}.weight", perm=[1, 0])
                )
            else:
                result = self.linears.dense(value, f.head)
            g.node("Cast", result, to=FLOAT, output="logits")


def _numpy_type(dtype: int) -> type:
    return helper.tensor_dtype_to_np_dtype(dtype).type
