"""The format that is recommended for a device: which, that it can be made, and its planned size."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest

from edgewright.compress.quantize.options import QuantizeOptions
from edgewright.compress.quantize.runner import quantize
from edgewright.export.options import ExportOptions
from edgewright.export.runner import export
from edgewright.models import expressible
from edgewright.pipeline.forecast import plan_model
from edgewright.pipeline.format_choice import recommended_format
from edgewright.steps.state import checkpoint_state
from edgewright.targets import list_targets, load_target

CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    shutil.copy(CONFIGS / "qwen2.5-3b.json", tmp_path / "config.json")
    return tmp_path


@pytest.mark.parametrize(
    ("target", "precision", "cache", "format"),
    [
        ("jetson-agx-orin-64gb", "fp16", "float", "onnx"),
        ("jetson-agx-orin-64gb", "int8", "float", "onnx"),
        ("jetson-agx-orin-64gb", "int4", "float", "gguf"),  # TensorRT reads it from JetPack 7.2
        ("jetson-orin-nx-16gb", "fp16", "float", "gguf"),  # no memory to build the engine
        ("jetson-orin-nano-8gb", "int4", "float", "gguf"),
        ("jetson-agx-orin-64gb", "int4", "int8", "onnx"),  # llama.cpp's cache is not ours
        ("cpu", "int4", "float", "ort"),
        ("cpu", "int8", "float", "onnx"),
        (None, "int4", "float", "onnx"),
    ],
)
def test_the_format_that_most_releases_run(
    model: Path, target: str | None, precision: str, cache: Any, format: str
) -> None:
    device = load_target(target) if target else None
    state = checkpoint_state(model)
    assert recommended_format(state, precision, device, kv_cache=cache) == format


def test_a_model_that_llama_cpp_has_not_gets_another_format(
    make_model: Callable[..., Path],
) -> None:
    state = checkpoint_state(make_model("helium"))
    assert expressible(state.architecture, "gguf")
    assert recommended_format(state, "int4", load_target("jetson-orin-nano-8gb")) != "gguf"


def test_every_profile_recommends_formats_that_it_runs() -> None:
    for target in list_targets():
        assert target.platform.recommended
        assert set(target.platform.recommended) <= set(target.platform.formats)


def test_the_commands_of_a_plan_make_the_recommended_format(model: Path) -> None:
    for row in plan_model(str(model), "all"):
        format = row["format"]
        named = "" if format == "onnx" else f"--format {format} "
        export_command = row["commands"][-1]
        assert f"{named}--precision {row['precision']} " in export_command
        assert export_command.endswith(f"-{format}")


@pytest.mark.parametrize("precision", ["fp16", "int8", "int4"])
def test_the_planned_size_of_a_gguf_is_that_of_its_tensors(
    make_model: Callable[..., Path], context: Any, tmp_path: Path, precision: Any
) -> None:
    source = make_model("qwen2")
    if precision == "int4":
        quantize(QuantizeOptions(method="rtn"), source, tmp_path / "int4", context)
        source = tmp_path / "int4"
    options = ExportOptions(format="gguf", precision=precision)
    export(options, source, tmp_path / "out", context)
    planned = checkpoint_state(source).exported("gguf", precision)
    written = gguf.GGUFReader(tmp_path / "out" / "model.gguf").tensors
    assert planned.weight_bytes == pytest.approx(sum(int(t.n_bytes) for t in written), rel=0.02)
