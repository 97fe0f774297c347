"""The format that is recommended for a device: which, that it can be made, and its planned size."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import pytest
from known_models import changed

from edgewright.compress.quantize.options import QuantizeOptions
from edgewright.compress.quantize.runner import quantize
from edgewright.export.options import ExportOptions
from edgewright.export.runner import export
from edgewright.models import expressible
from edgewright.pipeline.forecast import device_row, plan_model
from edgewright.pipeline.format_choice import recommended_route
from edgewright.steps.state import State, checkpoint_state
from edgewright.targets import Target, list_targets, load_target

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
    assert recommended_route(state, precision, device, kv_cache=cache).format == format


def test_a_model_that_llama_cpp_has_not_gets_another_format(
    make_model: Callable[..., Path],
) -> None:
    state = checkpoint_state(make_model("helium"))
    assert expressible(state.architecture, "gguf")
    assert recommended_route(state, "int4", load_target("jetson-orin-nano-8gb")).format != "gguf"


def test_what_keeps_most_of_a_model_is_advised_where_it_runs_and_fits(model: Path) -> None:
    """`mixed` for llama.cpp and ONNX Runtime; for others, or if that makes it too large, gptq."""
    state = checkpoint_state(model)
    nano = load_target("jetson-orin-nano-8gb")
    route = recommended_route(state, "int4", nano)
    assert (route.format, route.method) == ("gguf", "mixed")
    assert not route.checkpoint.sym and route.artifact.format == "gguf"
    assert recommended_route(state, "int4", load_target("cpu")).method == "mixed"
    assert recommended_route(state, "int4", None).method == "gptq"
    assert recommended_route(state, "int8", load_target("cpu")).method == "smoothquant"
    assert recommended_route(state, "fp16", nano).method is None
    longer = next(n for n in range(64, 40_000, 64) if not fits(state, nano, route.artifact, n))
    small = recommended_route(state, "int4", nano, longer)
    assert (small.format, small.method) == ("gguf", "gptq")
    assert fits(state, nano, small.artifact, longer)
    odd = replace(state, architecture=changed(state.architecture, hidden_size=2016))
    assert recommended_route(odd, "int4", load_target("cpu")).method == "gptq"


def fits(state: State, target: Target, artifact: State, context: int) -> bool:
    """Whether nothing is in the way of an artifact with so much context."""
    row = device_row("it", artifact, target, context, 1)
    return not row["refused"]


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


@pytest.mark.parametrize(
    ("precision", "method"), [("fp16", ""), ("int8", ""), ("int4", "rtn"), ("int4", "mixed")]
)
def test_the_planned_size_of_a_gguf_is_that_of_its_tensors(
    make_model: Callable[..., Path], context: Any, tmp_path: Path, precision: Any, method: str
) -> None:
    source = make_model("qwen2", dtype="bfloat16")
    if method:
        asked = QuantizeOptions.model_validate({"method": method})
        quantize(asked, source, tmp_path / "int4", context)
        source = tmp_path / "int4"
    options = ExportOptions(format="gguf", precision=precision)
    export(options, source, tmp_path / "out", context)
    planned = checkpoint_state(source).exported("gguf", precision)
    written = gguf.GGUFReader(tmp_path / "out" / "model.gguf").tensors
    assert planned.weight_bytes == pytest.approx(sum(int(t.n_bytes) for t in written), rel=0.02)
