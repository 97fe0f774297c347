"""An INT4 artifact for ONNX Runtime packs an embedding and a head that are in floating point.

Their vocabularies are small, so that all rows have 8 bits. test_mixed_tables.py has large ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgewright.compress.quantize.options import QuantizeOptions
from edgewright.compress.quantize.runner import quantize
from edgewright.export.onnx.runtime import OnnxDecoder
from edgewright.export.options import ExportOptions
from edgewright.export.runner import export
from edgewright.steps.context import CalibrationData, StepContext

CONTEXT = StepContext(CalibrationData(samples=8, seq_len=64))
SHARES = {"int4": 0.02, "int4-a8": 0.06}
"""Largest mean change of the logits, as a share of their mean size. int4-a8 also rounds the inputs
of the head."""


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def quantized(
    request: pytest.FixtureRequest,
    make_model: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A GPTQ checkpoint whose embedding and head are in floating point."""
    source = make_model("qwen2", tie_word_embeddings=request.param)
    out = tmp_path_factory.mktemp("head") / "gptq"
    quantize(QuantizeOptions(group_size=64), source, out, CONTEXT)
    return out


def provenance(artifact: Path) -> dict[str, Any]:
    return json.loads((artifact / "edgewright.json").read_text())


def logits(artifact: Path) -> np.ndarray[Any, np.dtype[np.float32]]:
    ids = np.arange(30, 62)[None]
    return OnnxDecoder(artifact, 1).forward(ids, np.ones_like(ids))[0]


@pytest.mark.parametrize("precision", ["int4", "int4-a8"])
def test_tables_are_packed_by_default(quantized: Path, precision: str, tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    floats = tmp_path / "floats"
    done = export(ExportOptions(format="ort", precision=precision), quantized, packed, CONTEXT)
    plain = ExportOptions(format="ort", precision=precision, pack_head=False)
    export(plain, quantized, floats, CONTEXT)
    assert provenance(packed)["packed_tables"] is True
    assert provenance(floats)["packed_tables"] is False
    assert any("rounded to 8 bits" in note for note in done.notes)
    graph = onnx.load(str(packed / "model.onnx"), load_external_data=True).graph
    vocabulary = json.loads((packed / "config.json").read_text())["vocab_size"]
    tables = [tensor for tensor in graph.initializer if vocabulary in tensor.dims]
    assert tables
    kinds = {onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT}
    assert {tensor.data_type for tensor in tables} <= kinds
    largest = max(tables, key=lambda tensor: numpy_helper.to_array(tensor).nbytes)
    assert largest.data_type == onnx.TensorProto.UINT8
    weights = [folder / "model.onnx.data" for folder in (packed, floats)]
    assert weights[0].stat().st_size < weights[1].stat().st_size
    ours, exact = logits(packed), logits(floats)
    assert np.abs(ours - exact).max() > 0
    assert np.abs(ours - exact).mean() < SHARES[precision] * np.abs(exact).mean()


def test_tables_that_are_packed_already_are_copied(
    make_model: Callable[..., Path], tmp_path: Path
) -> None:
    options = QuantizeOptions(group_size=64, head_bits=8)
    quantize(options, make_model("qwen2", tie_word_embeddings=True), tmp_path / "gptq", CONTEXT)
    export(
        ExportOptions(format="ort", precision="int4"), tmp_path / "gptq", tmp_path / "ort", CONTEXT
    )
    assert provenance(tmp_path / "ort")["packed_tables"] is False


@pytest.mark.parametrize("format", ["onnx", "ort"])
def test_other_precisions_keep_them(
    format: str, make_model: Callable[..., Path], tmp_path: Path
) -> None:
    export(ExportOptions(format=format), make_model("qwen2"), tmp_path / "fp32", CONTEXT)
    assert provenance(tmp_path / "fp32")["packed_tables"] is False
