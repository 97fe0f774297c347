"""Reads a GGUF file back, and compares its weights with the model's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ...checkpoints.loading import stock_model
from ...errors import ParityFailed
from ..onnx.reference import REFERENCES, choose_reference
from ..onnx.weights import Weights
from .tensors import Entry

__all__ = ["read_back"]


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
        ParityFailed: a weight of the model is not in the file.
    """
    way = choose_reference(checkpoint)
    weight_of = _stock_weights(checkpoint) if way == "stock" else None
    expected = {f"{entry.name}.weight": entry for entry in found}
    kinds: dict[str, int] = {}
    worst = 0.0
    for tensor in gguf.GGUFReader(str(file)).tensors:
        kinds[tensor.tensor_type.name] = kinds.get(tensor.tensor_type.name, 0) + 1
        entry = expected.pop(tensor.name, None)
        if entry is None:  # a bias, or a table of rotary factors
            continue
        dense = weight_of(entry.module) if weight_of else weights.dense(entry.stored)
        model = entry.as_written(dense.float()).numpy()
        stored = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(model.shape)
        largest = np.abs(model).max() or 1.0
        worst = max(worst, float(np.abs(model - stored).max() / largest))
    if expected:
        raise ParityFailed(
            f"{file.name}: the weight of {min(entry.module for entry in expected.values())} "
            "is missing",
            "please report it with the model's config.json",
        )
    return {"tensors": kinds, "largest_difference": worst, "reference": REFERENCES[way]}


def _stock_weights(checkpoint: Path) -> Callable[[str], Tensor]:
    """A function from a module's name to its float32 weight, as stock transformers loads it."""
    model = stock_model(checkpoint)
    return lambda module: model.get_submodule(module).weight.detach()
