"""Write the decoder as an ONNX graph, node by node, without tracing and without a model in memory.

Inputs and outputs have Optimum's names: `input_ids`, `attention_mask`, `position_ids` and
`past_key_values.N.key|value` are inputs, `logits` and `present.N.key|value` are outputs. Batch,
sequence and past are dynamic, and the past may be empty.

Only standard operators are used, because TensorRT cannot import those of ONNX Runtime (`fused`
writes those). Residual stream, norms and softmax are float32 in every precision: Gemma's residual
stream leaves the range of fp16, and the cost is negligible.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import helper

from ...errors import Refused
from ...models import Architecture, Attention, Branch, DenseFFN, Layer, Linear, Norm, PositionScale
from ...models.blocks.linear import stored as stored_linears
from .activations import write_activation
from .builder import GraphBuilder
from .cut import Cut
from .linears import Linears, parallel_readers, split_parts, stored
from .masks import FLOAT, INT64, additive_masks
from .norms import NamedNorm, named_norm, write_norm
from .precision import Precision
from .rotary import RotaryTable, rotated, write_angles, write_position_scale
from .runtime import KEPT
from .weights import Weights

__all__ = ["Decoder"]

TOTAL = "past_sequence_length + sequence_length"


class Decoder:
    """Writes one decoder. Each method adds nodes and returns the names of their outputs."""

    def __init__(
        self,
        graph: GraphBuilder,
        weights: Weights,
        architecture: Architecture,
        rotary: Mapping[str | None, RotaryTable],
        precision: Precision,
        cut: Cut,
    ) -> None:
        self.graph = graph
        self.weights = weights
        self.architecture = architecture
        self.precision = precision
        self.cut = cut
        self.rotary = rotary
        self.type = precision.activations
        self.linears = Linears(graph, weights, precision, parallel_readers(architecture))
        longest = max(layer.attention.window for layer in architecture.layers)
        if 0 < cut.window < longest:
            raise Refused(
                f"a window of {cut.window}: layers of this model see {longest} positions back",
                f"give --window {longest} or more",
            )
        self.kept = "kept_sequence_length" if cut.window else TOTAL
        self._bounds: tuple[str, str] | None = None
        if cut.window:
            graph.metadata[KEPT] = f"{cut.sinks},{cut.window}"

    def write(self) -> None:
        """Write the whole graph."""
        model = self.architecture
        ids, mask, positions = self._declare_inputs()
        windows = list(dict.fromkeys(layer.attention.window for layer in model.layers))
        masks = self._masks(ids, mask, windows)
        angles = {kind: self._angles(positions, kind) for kind in self.rotary}
        scales = dict.fromkeys(layer.attention.position_scale for layer in model.layers)
        self.scales = {scale: self._position_scale(positions, scale) for scale in scales if scale}
        hidden = self._embed(ids)
        norms = [named_norm(layer, layer.mixer_norm) for layer in model.layers]
        final = NamedNorm(f"{model.final_norm.name}.weight", model.final_norm)
        value = self._norm(hidden, norms[0]) if norms[0] else hidden
        for layer, following in zip(model.layers, [*norms[1:], final], strict=True):
            attention, (mixer, ffn) = layer.attention, layer.branches
            turn = angles[attention.rotary.layer_type] if attention.rotary else None
            mixed = self._attention(value, layer, masks[attention.window], turn)
            mixed = self._block_output(mixed, layer, mixer)
            if not layer.parallel:
                hidden, value = self._residual(hidden, mixed, layer, named_norm(layer, ffn.norm))
            output = self._block_output(self._ffn(value, layer), layer, ffn)
            if layer.parallel:
                with self.graph.at(layer.name):
                    output = self.graph.node("Add", mixed, output)
            hidden, value = self._residual(hidden, output, layer, following)
        self._head(self._last(value) if self.cut.last_logits else value)

    def _last(self, value: str) -> str:
        """The last position of [batch, sequence, hidden]."""
        g = self.graph
        with g.at(self.architecture.head):
            return g.node(
                "Slice",
                value,
                g.constant([-1]),
                g.constant([np.iinfo(np.int64).max]),
                g.constant([1]),
            )

    def _declare_inputs(self) -> tuple[str, str, str]:
        g, model = self.graph, self.architecture
        caches = [(layer.index, layer.attention.sizes) for layer in model.layers]
        ids = g.input("input_ids", INT64, ["batch_size", "sequence_length"])
        mask = g.input("attention_mask", INT64, ["batch_size", TOTAL])
        positions = g.input("position_ids", INT64, ["batch_size", "sequence_length"])
        for layer, sizes in caches:
            for part in ("key", "value"):
                cache = ["batch_size", sizes.kv_heads, "past_sequence_length", sizes.head_dim]
                g.input(f"past_key_values.{layer}.{part}", self.type, cache)
        logits = 1 if self.cut.last_logits else "sequence_length"
        g.output("logits", FLOAT, ["batch_size", logits, model.vocab_size])
        for layer, sizes in caches:
            for part in ("key", "value"):
                cache = ["batch_size", sizes.kv_heads, self.kept, sizes.head_dim]
                g.output(f"present.{layer}.{part}", self.type, cache)
        return ids, mask, positions

    def _masks(self, ids: str, mask: str, windows: list[int]) -> dict[int, str]:
        """The mask for each window; see `additive_masks`."""
        return additive_masks(self.graph, ids, mask, windows, self.cut)

    def _angles(self, positions: str, kind: str | None) -> tuple[str, str]:
        """Cosine and sine of the angles: [batch, 1, sequence, dim / 2], activation type."""
        g, name = self.graph, f"{self.architecture.rotary}.{kind or 'all'}"
        with g.at(f"rotary.{kind}" if kind else "rotary"):
            cosine, sine = write_angles(g, positions, self.rotary[kind], name)
            return g.cast(cosine, FLOAT, self.type), g.cast(sine, FLOAT, self.type)

    def _position_scale(self, positions: str, scale: PositionScale) -> str:
        """The factor of queries by their positions: [batch, 1, sequence, 1], activation type."""
        g = self.graph
        with g.at("position_scale"):
            value = write_position_scale(g, positions, scale)
            value = g.node("Unsqueeze", value, g.constant([1]))
            return g.cast(value, FLOAT, self.type)

    def _embed(self, ids: str) -> str:
        """The embeddings of the tokens, float32 [batch, sequence, hidden]."""
        g, embedding = self.graph, self.architecture.embedding
        name = f"{embedding}.weight"
        with g.at(embedding):
            matrix = g.weight(name, stored(self.weights.dense(embedding), self.type, name))
            return self._scaled_embedding(g.cast(g.node("Gather", matrix, ids), self.type, FLOAT))

    def _scaled_embedding(self, hidden: str) -> str:
        """Embeddings times the embedding factor of the model, if it has one."""
        g, scale = self.graph, self.architecture.embedding_scale
        return hidden if scale == 1 else g.node("Mul", hidden, g.constant(scale, np.float32))

    def _norm(self, value: str, named: NamedNorm) -> str:
        """A norm over the last axis of a float32 value; the result is float32."""
        return write_norm(self.graph, self.weights, value, named)

    def _residual(
        self, hidden: str, value: str, layer: Layer, following: NamedNorm | None
    ) -> tuple[str, str]:
        """Add the output of a block to the residual stream (float32), and norm the sum.

        Args:
            hidden: the residual stream.
            value: the output of the block (`_block_output`).
            layer: the layer of the block.
            following: the norm of the sum; None: there is none.

        Returns:
            The new stream, and its normed value.
        """
        with self.graph.at(layer.name):
            hidden = self.graph.node("Add", hidden, value)
        return hidden, self._norm(hidden, following) if following else hidden

    def _block_output(self, value: str, layer: Layer, branch: Branch) -> str:
        """What a block adds to the residual stream, in float32."""
        g, named = self.graph, named_norm(layer, branch.post_norm)
        with g.at(layer.name):
            value = g.cast(value, self.type, FLOAT)
            if named:
                value = self._norm(value, named)
            if branch.scale != 1:
                value = g.node("Mul", value, g.constant(branch.scale, np.float32))
        return value

    def _project(self, value: str, layer: Layer, *linears: Linear) -> list[str]:
        """The outputs of linear layers that read `value`; those stored as one are one product."""
        whole = stored_linears(linears)
        outputs = self.linears.apply(value, [layer.full(linear.name) for linear in whole])
        return split_parts(self.graph, outputs, whole, linears)

    def _heads(self, value: str, layer: Layer, heads: int) -> str:
        """[batch, sequence, heads * head_dim] as [batch, heads, sequence, head_dim]."""
        g, width = self.graph, layer.attention.sizes.head_dim
        value = g.node("Reshape", value, g.constant([0, 0, heads, width]))
        return g.node("Transpose", value, perm=[0, 2, 1, 3])

    def _rotated_heads(
        self,
        value: str,
        layer: Layer,
        heads: int,
        norm: Norm | None,
        angles: tuple[str, str] | None,
    ) -> str:
        """Queries or keys as `_heads` has them, normed and with positions."""
        attention = layer.attention
        if attention.whole:
            value = self._normed(value, layer, norm)
        value = self._heads(value, layer, heads)
        own = None if attention.whole else norm
        if attention.norm_after_rotary:
            return self._normed(self._rotate(value, attention, angles), layer, own)
        return self._rotate(self._normed(value, layer, own), attention, angles)

    def _normed(self, value: str, layer: Layer, norm: Norm | None) -> str:
        """A value in the activation type, normed over the last axis if `norm` is given."""
        named = named_norm(layer, norm)
        if named is None:
            return value
        value = self._norm(self.graph.cast(value, self.type, FLOAT), named)
        return self.graph.cast(value, FLOAT, self.type)

    def _rotate(self, value: str, attention: Attention, angles: tuple[str, str] | None) -> str:
        """Heads [batch, heads, sequence, head_dim] with rotary positions, if the layer has them."""
        if attention.rotary is None or angles is None:
            return value
        return rotated(self.graph, value, attention.rotary, attention.sizes.head_dim, angles)

    def _attention(
        self, value: str, layer: Layer, mask: str, angles: tuple[str, str] | None
    ) -> str:
        """Grouped-query attention over past and present, [batch, sequence, hidden].

        In the activation type. The query heads of a group are stacked, so each key/value head is
        read in place and never repeated in memory.
        """
        g, attention = self.graph, layer.attention
        heads, kv_heads = attention.sizes.heads, attention.sizes.kv_heads
        width = attention.sizes.head_dim
        value = g.cast(value, FLOAT, self.type)
        q, k, v = self._project(value, layer, attention.q, attention.k, attention.v)
        with g.at(layer.full(attention.name)):
            query = self._rotated_heads(q, layer, heads, attention.q_norm, angles)
            if attention.position_scale:
                query = g.node("Mul", query, self.scales[attention.position_scale])
            key = self._rotated_heads(k, layer, kv_heads, attention.k_norm, angles)
            key = self._cached(key, layer.index, "key")
            values = self._cached(self._heads(v, layer, kv_heads), layer.index, "value")
            scale = g.constant(attention.query_scale, _numpy_type(self.type))
            query = g.node("Mul", query, scale)
            query = g.node("Reshape", query, g.constant([0, kv_heads, -1, width]))
            scores = g.node("MatMul", query, g.node("Transpose", key, perm=[0, 1, 3, 2]))
            scores = g.node("Reshape", scores, g.constant([0, heads, -1, 0]))
            scores = self._capped(g.cast(scores, self.type, FLOAT), attention.softcap)
            scores = g.node("Add", scores, mask)
            shares = g.cast(g.node("Softmax", scores, axis=-1), FLOAT, self.type)
            shares = g.node("Reshape", shares, g.constant([0, kv_heads, -1, 0]))
            mixed = g.node("MatMul", shares, values)
            mixed = g.node("Reshape", mixed, g.constant([0, heads, -1, width]))
            merged = g.node("Transpose", mixed, perm=[0, 2, 1, 3])
            merged = g.node("Reshape", merged, g.constant([0, 0, heads * width]))
        return self._project(merged, layer, attention.o)[0]

    def _capped(self, value: str, cap: float | None) -> str:
        """A float32 value limited to ± cap by a tanh; None: no limit."""
        if cap is None:
            return value
        g, limit = self.graph, self.graph.constant(cap, np.float32)
        return g.node("Mul", g.node("Tanh", g.node("Div", value, limit)), limit)

    def _cached(self, value: str, layer: int, part: str) -> str:
        """Past and new positions for attention; `present` keeps only sinks and window of them."""
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
        """Begin and end of the window in a cache, after the sinks; the same for all layers."""
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

    def _ffn(self, value: str, layer: Layer) -> str:
        """The dense FFN, in the activation type."""
        ffn = layer.dense_ffn
        assert ffn, "`expressible` lets no experts through"
        value = self.graph.cast(value, FLOAT, self.type)
        first, *up = self._project(value, layer, *ffn.readers)
        with self.graph.at(layer.full(ffn.name)):
            inside = self._activation(first, ffn)
            for factor in up:  # of a gated FFN
                inside = self.graph.node("Mul", inside, factor)
        return self._project(inside, layer, ffn.down)[0]

    def _activation(self, value: str, ffn: DenseFFN) -> str:
        return write_activation(self.graph, value, ffn.activation, _numpy_type(self.type))

    def _head(self, hidden: str) -> None:
        """Logits in float32 from the normed hidden state; a tied head reads the embedding."""
        g, model = self.graph, self.architecture
        own = f"{model.head}.weight" in self.weights or self.weights.is_packed(model.head)
        value = g.cast(hidden, FLOAT, self.type)
        with g.at(model.head):
            if model.tied or not own:
                matrix = g.node("Transpose", f"{model.embedding}.weight", perm=[1, 0])
                result = g.node("MatMul", value, matrix)
            else:
                result = self.linears.dense(value, model.head)
            self._logits(result)

    def _logits(self, value: str) -> None:
        """Make a value in the activation type the output. ONNX Runtime removes an Identity."""
        g, model = self.graph, self.architecture
        if model.logit_scale != 1 or model.logit_softcap:
            value = g.cast(value, self.type, FLOAT)
            scaled = g.node("Mul", value, g.constant(model.logit_scale, np.float32))
            g.node("Identity", self._capped(scaled, model.logit_softcap), output="logits")
        elif self.type == FLOAT:
            self.graph.node("Identity", value, output="logits")
        else:
            self.graph.node("Cast", value, to=FLOAT, output="logits")


def _numpy_type(dtype: int) -> type:
    return helper.tensor_dtype_to_np_dtype(dtype).type
