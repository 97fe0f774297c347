"""TensorRT for RTX parses the portable graph of every family, and builds an engine for SM86."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from conftest import FAMILIES, MIXTURES
from family_table import SETTINGS
from wrapped_models import WRAPPED, make_wrapped

from edgewright.checkpoints.config import read_architecture
from edgewright.export.onnx.export import export_onnx
from edgewright.export.tensorrt.rtx import check_build, installed
from edgewright.models import expressible

ALL = sorted((FAMILIES | SETTINGS).keys() - set(MIXTURES))
"""Mixtures are refused at plan time, see tests/models/test_export_agreement.py."""
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(installed() is None, reason="needs TensorRT for RTX"),
]


def built(source: Path, out: Path) -> None:
    """Export a model, and let TensorRT for RTX parse the graph and build an engine of it."""
    export_onnx(source, out, "fp16", format="tensorrt")
    assert onnx.load(str(out / "model.onnx"), load_external_data=False).graph.node
    assert check_build(out)["tensorrt/engine_bytes"]


@pytest.mark.parametrize("family", ALL)
def test_every_family_becomes_an_engine(
    family: str, make_model: Callable[..., Path], tmp_path: Path
) -> None:
    source = make_model(family, dtype="float16")
    assert not expressible(read_architecture(source), "tensorrt")
    built(source, tmp_path / "out")


@pytest.mark.parametrize("name", sorted(WRAPPED))
def test_text_models_of_wrappers_become_engines(
    name: str, tokenizer_dir: Path, tmp_path: Path
) -> None:
    built(make_wrapped(tmp_path / "source", name, tokenizer_dir), tmp_path / "out")
