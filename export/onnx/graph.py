"""One artifact's graph on disk: `model.onnx` and its weights beside it, in standard operators or in ONNX Runtime's own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from ... import __version__
from ...models import Family
from .builder import GraphBuilder
from .cut import Cut
from .decoder import Decoder
from .fused import Fused
from .opset import opset_of
from .precision import Precision
from .weights import Weights

__all__ = ["DATA", "MODEL", "GraphInfo", "write_graph"]

MODEL = "model.onnx"
DATA = "model.onnx.data"


@dataclass(frozen=True)
class GraphInfo:
    """What was written.

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
    family: Family,
    settings: Any,
    precision: Precision,
    cut: Cut | None = None,
    fused: bool = False,
) -> GraphInfo:
    """Write `model.onnx` and `model.onnx.data` into `folder`.

    Args:
        folder: an existing directory.
        weights: the checkpoint's tensors.
        family: the family of the model.
        settings: its transformers config, which fills in what a config.json leaves out.
        precision: how weights and activations are stored.
        cut: what the graph leaves out; nothing by default.
        fused: in ONNX Runtime's own operators instead of standard ones.

    Raises:
        Refused: something in the model has no counterpart in the graph.
        UsageError: a tensor is missing or damaged.
    """
    with (folder / DATA).open("wb") as data:
        graph = GraphBuilder(data, DATA, opset_of(precision.name))
        decoder = (Fused if fused else Decoder)(
            graph, weights, family, settings, precision, cut or Cut()
        )
        decoder.write()
        model = graph.model(family.model_types[0], __version__)
    onnx.save(model, str(folder / MODEL))
    inputs, outputs = (
        [value.name for value in values] for values in (model.graph.input, model.graph.output)
    )
    return GraphInfo(inputs, outputs, decoder.linears.low_bit)
