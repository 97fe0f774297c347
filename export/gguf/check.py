"""Reads a GGUF file back, and compares its weights with the model's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ...checkpoints.loading import stock_model
from ...errors import ParityFailed
from ...models import text_name
from ..onnx.reference import REFERENCES, choose_reference
from ..onnx.weights import Weights
from .tensors import Entry

__all__ = ["read_back"]

LARGEST = 0.02
"""Largest difference of a weight, relative to the largest of its tensor. Rounding to 8 bits is off
by 0.004 at most, scales in fp16 by less; one step of 4 bits is 0.07."""


def read_back(
    gguf: Any, file: Path, checkpoint: Path, weights: Weights, found: list[Entry]
) -> dict[str, Any]:
    """Dequantize every weight with the reader of `gguf`, and compare it with the checkpoint.

    Args:
        gguf: the package.
        file: the GGUF file.
        checkpoint: the model directory.
        weights: its tensors, for models that are too large to load or are packed.
        found: the modules that the file must hold.

    Returns:
        See `export_gguf`.

    Raises:
        ParityFailed: a weight of the model is not in the file, or has other values.
    """
    way = choose_reference(checkpoint)
    weight_of = _stock_weights(checkpoint) if way == "stock" else None
    expected = {f"{entry.name}.weight": entry for entry in found}
    kinds: dict[str, int] = {}
    worst = (0.0, "")
    for tensor in gguf.GGUFReader(str(file)).tensors:
        kinds[tensor.tensor_type.name] = kinds.get(tensor.tensor_type.name, 0) + 1
        entry = expected.pop(tensor.name, None)
        if entry is None:  # a bias, or a table of rotary factors
            continue
        dense = weight_of(entry.module) if weight_of else weights.dense(entry.stored)
        model = entry.as_written(dense.float()).numpy()
        stored = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(model.shape)
        largest = np.abs(model).max() or 1.0
        worst = max(worst, (float(np.abs(model - stored).max() / largest), entry.module))
    if expected:
        raise ParityFailed(
            f"{file.name}: the weight of {min(entry.module for entry in expected.values())} "
            "is missing",
            "please report it with the model's config.json",
        )
    if worst[0] > LARGEST:
        raise ParityFailed(
            f"{file.name}: {worst[1]} differs from that of {REFERENCES[way]} by {worst[0]:.2g} of "
            f"its largest value (at most {LARGEST:g})",
            "please report it with the model's config.json",
        )
    return {"tensors": kinds, "largest_difference": worst[0], "reference": REFERENCES[way]}


def _stock_weights(checkpoint: Path) -> Callable[[str], Tensor]:
    """A function from a module's name to its float32 weight, as stock transformers loads it.

    Of a wrapper, the state has the names of its files; those of the text model are looked for.
    """
    state = stock_model(checkpoint).state_dict()
    own = {text_name(name) or name: weight for name, weight in state.items()}
    return lambda module: own[f"{module}.weight"].detach()
