"""Write the graph of an artifact: `model.onnx`, with the weights in a file beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

from ... import __version__
from ...models import Architecture
from ...models.formats.onnx import MODEL
from .builder import GraphBuilder
from .cut import Cut
from .decoder import Decoder
from .fused import Fused
from .precision import Precision
from .rotary import RotaryTable
from .weights import Weights

__all__ = ["DATA", "MODEL", "GraphInfo", "write_graph"]

DATA = "model.onnx.data"


@dataclass(frozen=True)
class GraphInfo:
    """What the parity check and the provenance need of a written graph.

    Attributes:
        inputs, outputs: names in order.
        low_bit_linears: products with low-bit weights.
    """

    inputs: list[str]
    outputs: list[str]
    low_bit_linears: int


def write_graph(
    folder: Path,
    weights: Weights,
    architecture: Architecture,
    rotary: Mapping[str | None, RotaryTable],
    precision: Precision,
    cut: Cut | None = None,
    fused: bool = False,
) -> GraphInfo:
    """Write `model.onnx` and `model.onnx.data` into `folder`.

    Args:
        folder: an existing directory.
        weights: the checkpoint's tensors.
        architecture: of the model; `expressible` as a graph.
        rotary: the rotary frequencies by layer type.
        precision: how weights and activations are stored.
        cut: what the graph leaves out; nothing by default.
        fused: use ONNX Runtime's own operators instead of standard ones.

    Raises:
        Refused: a windowed cache that is too short, or weights that the operators cannot read.
        UsageError: a tensor is missing or damaged.
    """
    with (folder / DATA).open("wb") as data:
        graph = GraphBuilder(data, DATA, precision.opset)
        writer = Fused if fused else Decoder
        decoder = writer(graph, weights, architecture, rotary, precision, cut or Cut())
        decoder.write()
        model = graph.model(architecture.model_type, __version__)
    onnx.save(model, str(folder / MODEL))
    inputs, outputs = (
        [value.name for value in values] for values in (model.graph.input, model.graph.output)
    )
    return GraphInfo(inputs, outputs, decoder.linears.low_bit)
