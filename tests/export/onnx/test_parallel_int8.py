"""Attention and FFN that read one norm are one integer product in static INT8."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgewright.compress.quantize.options import QuantizeOptions
from edgewright.compress.quantize.runner import quantize
from edgewright.export.onnx.export import export_onnx


@pytest.mark.parametrize(
    ("family", "more"), [("cohere2", {}), ("stablelm", {"use_parallel_residual": True})]
)
def test_parallel_blocks_stay_in_integers(
    family: str, more: dict[str, Any], make_model: Callable[..., Path], context: Any, tmp_path: Path
) -> None:
    source = make_model(family, **more)
    quantize(QuantizeOptions(method="smoothquant"), source, tmp_path / "int8", context)
    parity = export_onnx(tmp_path / "int8", tmp_path / "onnx", "int8").parity
    assert parity["parity/low_bit_nodes"] == 3 * 3  # of 3 layers: readers, o and down
