"""Rotary positions as graph nodes.

The frequencies are those of the model's own module in transformers, so that every form is right.
Two forms depend on the length: `longrope` has a second table for calls that go beyond the positions
of the pretraining, and `dynamic` stretches its table as soon as a call goes beyond
`max_position_embeddings`. As in transformers, the last position of the whole call decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import TensorProto

from ...errors import Refused
from ...models import Architecture, PositionScale, Rotary
from .builder import GraphBuilder
from .masks import FLOAT, INT64

__all__ = ["RotaryTable", "rotary_tables", "rotated", "write_angles", "write_position_scale"]

DOUBLE = TensorProto.DOUBLE


@dataclass(frozen=True)
class RotaryTable:
    """How positions become angles.

    Attributes:
        rotary: what the architecture says of them.
        frequencies: float32 [dim / 2], radians per position.
        scaling: factor of cosine and sine.
        long_frequencies: of calls beyond the positions of the pretraining; None: the same.
    """

    rotary: Rotary
    frequencies: NDArray[np.float32]
    scaling: float
    long_frequencies: NDArray[np.float32] | None = None


def rotary_tables(settings: Any, architecture: Architecture) -> dict[str | None, RotaryTable]:
    """The rotary tables of a model by layer type (None: all layers share one).

    Args:
        settings: the transformers config of the model.
        architecture: of the model; `expressible` as a graph.

    Raises:
        Refused: transformers rotates another part of a head than config.json says.
    """
    from transformers import AutoModelForCausalLM  # late: slow to import

    found = [layer.attention.rotary for layer in architecture.layers]
    rotaries = {rotary.layer_type: rotary for rotary in found if rotary}
    if not rotaries:
        return {}
    with torch.device("meta"):  # finds the class of the rotary module without allocating a weight
        model = AutoModelForCausalLM.from_config(settings, trust_remote_code=False)
        module = model.get_submodule(architecture.rotary)
    return {kind: _table(type(module)(settings), rotary) for kind, rotary in rotaries.items()}


def _table(module: Any, rotary: Rotary) -> RotaryTable:
    """The table of one layer type, from a new rotary module of transformers."""
    prefix = f"{rotary.layer_type}_" if rotary.layer_type else ""

    def frequencies() -> NDArray[np.float32]:
        return getattr(module, f"{prefix}inv_freq").float().numpy().copy()

    first = frequencies()
    if 2 * first.size != rotary.dim:
        raise Refused(
            f"config.json: rotary positions turn {2 * first.size} channels, not {rotary.dim}",
            "report this model, please",
        )
    scaling = float(getattr(module, f"{prefix}attention_scaling"))
    if rotary.form != "longrope":
        return RotaryTable(rotary, first, scaling)
    beyond = torch.tensor([[rotary.pretrained_positions]])
    kind = {"layer_type": rotary.layer_type} if rotary.layer_type else {}
    module(torch.zeros(1), beyond, **kind)  # the module itself changes to its second table
    return RotaryTable(rotary, first, scaling, frequencies())


def write_angles(
    graph: GraphBuilder, positions: str, table: RotaryTable, name: str
) -> tuple[str, str]:
    """Cosine and sine of the angles, float32 [batch, 1, sequence, dim / 2].

    Args:
        graph: the graph to add nodes to.
        positions: int64 [batch, sequence].
        table: the frequencies.
        name: of the weights.
    """
    g = graph
    columns = g.node("Unsqueeze", g.cast(positions, INT64, FLOAT), g.constant([1, 3]))
    angle = g.node("Mul", columns, _frequencies(g, columns, table, name))
    cosine, sine = g.node("Cos", angle), g.node("Sin", angle)
    if table.scaling != 1.0:
        scaling = g.constant(table.scaling, np.float32)
        cosine, sine = g.node("Mul", cosine, scaling), g.node("Mul", sine, scaling)
    return cosine, sine


def _frequencies(graph: GraphBuilder, positions: str, table: RotaryTable, name: str) -> str:
    """The frequencies of a call, float32 [dim / 2]."""
    g, rotary = graph, table.rotary
    if rotary.form == "dynamic":
        return _stretched(g, rotary, g.node("ReduceMax", positions, keepdims=0))
    frequencies = g.weight(name, table.frequencies)
    if table.long_frequencies is None:
        return frequencies
    long = g.weight(f"{name}.long", table.long_frequencies)
    last = g.node("ReduceMax", positions, keepdims=0)
    limit = g.constant(rotary.pretrained_positions - 1, np.float32)
    return g.node("Where", g.node("Greater", last, limit), long, frequencies)


def _stretched(graph: GraphBuilder, rotary: Rotary, last: str) -> str:
    """The frequencies of form `dynamic`; the operations are rounded as those of transformers.

    Args:
        graph: the graph to add nodes to.
        rotary: the form.
        last: the last position of the call, float32.
    """
    g, dim, limit = graph, rotary.dim, rotary.max_positions

    def apply(op: str, value: str, number: Any) -> str:
        return g.node(op, value, g.constant(number, np.float32))

    def power(value: str, exponent: Any) -> str:
        # One unit in the last place is 0.002 radians at position 40,000.
        exact = g.node("Pow", g.cast(value, FLOAT, DOUBLE), g.constant(exponent, np.float64))
        return g.cast(exact, DOUBLE, FLOAT)

    length = apply("Max", apply("Add", last, 1), limit)
    ratio = apply("Div", apply("Mul", length, rotary.factor), limit)
    ratio = apply("Sub", ratio, rotary.factor - 1)
    base = apply("Mul", power(ratio, dim / (dim - 2)), rotary.base)
    exponents = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    return g.node("Reciprocal", power(base, exponents))


def rotated(
    graph: GraphBuilder, value: str, rotary: Rotary, head_dim: int, angles: tuple[str, str]
) -> str:
    """Heads [batch, heads, sequence, head_dim], rotated by their positions.

    Args:
        graph: the graph to add nodes to.
        value: the heads.
        rotary: which channels are rotated, and which of them are pairs.
        head_dim: channels of a head.
        angles: cosine and sine, [batch, 1, sequence, dim / 2].
    """
    g, half = graph, rotary.dim // 2
    rest: list[str] = []
    if rotary.dim < head_dim:
        sizes = g.constant([rotary.dim, head_dim - rotary.dim])
        value, *rest = g.nodes("Split", value, sizes, outputs=[None, None], axis=-1)
    if not rotary.interleaved:
        return g.node("Concat", *_turned(g, value, half, angles), *rest, axis=-1)
    # Each pair on an axis of its own: [batch, heads, sequence, dim / 2, 2].
    value = g.node("Reshape", value, g.constant([0, 0, 0, half, 2]))
    columns = [g.node("Unsqueeze", part, g.constant([-1])) for part in angles]
    value = g.node("Concat", *_turned(g, value, 1, columns), axis=-1)
    value = g.node("Reshape", value, g.constant([0, 0, 0, rotary.dim]))
    return g.node("Concat", value, *rest, axis=-1) if rest else value


def _turned(graph: GraphBuilder, value: str, size: int, angles: Sequence[str]) -> tuple[str, str]:
    """The two halves of the last axis, `size` channels each, rotated against each other."""
    g, (cosine, sine) = graph, angles
    first, second = g.nodes("Split", value, g.constant([size, size]), outputs=[None, None], axis=-1)
    left = g.node("Sub", g.node("Mul", first, cosine), g.node("Mul", second, sine))
    right = g.node("Add", g.node("Mul", second, cosine), g.node("Mul", first, sine))
    return left, right


def write_position_scale(graph: GraphBuilder, positions: str, scale: PositionScale) -> str:
    """The factor of a query at each position, float32 [batch, sequence, 1]."""
    g = graph
    columns = g.node("Unsqueeze", g.cast(positions, INT64, FLOAT), g.constant([2]))
    lengths = g.node("Div", columns, g.constant(scale.length, np.float32))
    one = g.constant(1, np.float32)
    growth = g.node("Log", g.node("Add", g.node("Floor", lengths), one))
    return g.node("Add", g.node("Mul", growth, g.constant(scale.beta, np.float32)), one)
