"""A format is two files: its declaration and its writer. Everything else reads the declaration."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from conftest import BASE
from conftest import FAMILIES as SETTINGS
from known_models import violations
from pydantic import ValidationError

from edgewright.errors import Refused
from edgewright.export import options as options_module
from edgewright.export.step import ExportStep
from edgewright.models import FORMATS, Architecture, ExportFormat, Reason, architecture, expressible
from edgewright.models.export_format import load
from edgewright.models.formats.onnx import FORMAT as ONNX
from edgewright.steps.context import StepContext, StepResult
from edgewright.targets import Violation, load_target
from edgewright.targets.platform_profile import Platform, declared_formats

NANO = "jetson-orin-nano-8gb"


def write_names(options: Any, source: Path, out: Path, context: StepContext) -> StepResult:
    """The writer of the format below: a list of the files of the checkpoint."""
    del context
    out.mkdir()
    (out / "names.txt").write_text("\n".join(sorted(file.name for file in source.iterdir())))
    return StepResult([f"listed in {options.precision}"])


def device_rules(platform: Platform, model: Architecture, precision: str) -> Iterator[Violation]:
    """The device rules of the format below."""
    yield Violation("names", f"{platform.kind} {model.model_type} {precision}", "another device")


def no_qwen(model: Architecture) -> Iterator[Reason]:
    """What the format below cannot hold."""
    if model.model_type == "qwen2":
        yield Reason("names has no qwen2", "use a llama")


NAMES = ExportFormat(
    name="names",
    description="a list of files",
    writer=f"{__name__}:write_names",
    precisions=("fp32", "fp16"),
    platforms=("jetson",),
    reasons=no_qwen,
    measured_by="onnxruntime",
    device_rules=f"{__name__}:device_rules",
)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Declares the format; a second copy of export/options.py, executed with it."""
    monkeypatch.setitem(FORMATS, "names", NAMES)
    name = "edgewright.export.options_with_names"
    spec = spec_from_file_location(name, options_module.__file__)
    assert spec and spec.loader
    module = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def test_a_declared_format_is_exported(
    names: ModuleType, make_model: Callable[..., Path], context: StepContext, tmp_path: Path
) -> None:
    step, source = ExportStep(), make_model("llama")
    options = names.ExportOptions(format="names", precision="fp16")
    step.check_in_recipe(options)
    assert step.run(options, source, tmp_path / "out", context).notes == ["listed in fp16"]
    assert "config.json" in (tmp_path / "out" / "names.txt").read_text()
    with pytest.raises(Refused, match="names has no qwen2"):
        step.run(options, make_model("qwen2"), tmp_path / "no", context)


def test_options_ask_the_declaration(names: ModuleType) -> None:
    field = names.ExportOptions.model_json_schema()["properties"]["format"]
    assert field["enum"] == ["onnx", "ort", "tensorrt", "edge-llm", "gguf", "triton", "names"]
    assert "names: a list of files" in field["description"]
    for wrong in ({"precision": "int4"}, {"window": 64}, {"logits": "last"}):
        with pytest.raises(ValidationError, match="format names has no"):
            names.ExportOptions(format="names", **wrong)


@pytest.mark.usefixtures("names")
def test_targets_ask_the_declaration() -> None:
    llama = architecture({"model_type": "llama", **BASE, **SETTINGS["llama"]})
    qwen = architecture({"model_type": "qwen2", **BASE, **SETTINGS["qwen2"]})
    assert declared_formats("jetson")[-1] == "names" and "names" not in declared_formats("cpu")
    assert expressible(llama, "names") == []
    found = violations(load_target("cpu"), qwen, format="names", precision="fp32")
    assert [(v.rule, v.severity) for v in found] == [
        ("format", "refuse"),
        ("names", "refuse"),
        ("architecture", "refuse"),
    ]
    assert found[1].message == "cpu qwen2 fp32"


@pytest.mark.parametrize("format", FORMATS.values(), ids=list(FORMATS))
def test_declarations_name_functions_of_the_package(format: ExportFormat) -> None:
    for path in filter(None, (format.writer, format.device_rules)):
        assert path.startswith(("edgewright.export.", "edgewright.targets."))
        assert callable(load(path))


def test_declarations_and_defaults() -> None:
    assert ONNX is FORMATS["onnx"]
    assert options_module.ExportOptions().precision in ONNX.precisions
    positions = [format.position for format in FORMATS.values()]
    assert positions == sorted(set(positions))
    assert load_target(NANO).platform.formats == list(FORMATS)
    assert load_target("cpu").platform.formats == ["onnx", "ort", "gguf", "triton"]
