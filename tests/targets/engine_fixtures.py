"""Fixtures for TensorRT engines without TensorRT: a double's engine of any model, and its decoder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import tensorrt_double as double

from edgewright.export.onnx.cut import Cut
from edgewright.export.onnx.export import export_onnx
from edgewright.export.tensorrt.engine import PHASES, EngineSpec, profile_shapes
from edgewright.targets.device.cuda import Cuda
from edgewright.targets.device.engine_decoder import EngineDecoder

MakeDecoder = Callable[..., EngineDecoder]


@pytest.fixture
def cudart(monkeypatch: pytest.MonkeyPatch) -> double.Cudart:
    """A new device."""
    library = double.Cudart()
    monkeypatch.setattr(double, "CUDART", library)
    return library


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Path]]:
    """`exported(checkpoint, precision="fp32", last=False)`: an artifact, made once."""
    made: dict[tuple[Any, ...], Path] = {}

    def export(checkpoint: Path, precision: str = "fp32", last: bool = False) -> Path:
        key = (checkpoint, precision, last)
        if key not in made:
            out = tmp_path_factory.mktemp("exported") / "artifact"
            export_onnx(checkpoint, out, precision, cut=Cut(last_logits=last))
            made[key] = out
        return made[key]

    yield export


def spec_of(artifact: Path, **more: Any) -> EngineSpec:
    """An engine's settings for an artifact."""
    shape = json.loads((artifact / "edgewright.json").read_text())["shape"]
    names = ("num_hidden_layers", "num_key_value_heads", "head_dim")
    return EngineSpec(*(int(shape[name]) for name in names), **more)


def engine_of(artifact: Path, file: Path, **more: Any) -> EngineSpec:
    """Write the double's engine of an artifact; returns its settings."""
    spec = spec_of(artifact, **more)
    profiles = [
        {
            name: [shapes[name] for shapes in profile_shapes(spec, phase)]
            for name in profile_shapes(spec, phase)[0]
        }
        for phase in PHASES
    ]
    file.write_bytes(double.engine_file(artifact / "model.onnx", profiles))
    return spec


def rtx_double() -> Any:
    """The double as TensorRT for RTX's module: it captures graphs by itself."""
    module = ModuleType("tensorrt_rtx")
    module.__dict__.update(vars(double) | {"__name__": "tensorrt_rtx"})
    module.CudaGraphStrategy = SimpleNamespace(WHOLE_GRAPH_CAPTURE=1)  # type: ignore[attr-defined]
    return module


@pytest.fixture
def decoder_of(cudart: double.Cudart, tmp_path: Path) -> MakeDecoder:
    """`decoder_of(artifact, prompt=8, context=64, gapless=False, trt=..., batch=1)`."""

    def make(artifact: Path, *, gapless: bool = False, trt: Any = double, **more: Any) -> Any:
        sizes = {"prompt": 8, "context": 64} | more
        spec = engine_of(artifact, tmp_path / "model.engine", **sizes)
        assert asdict(spec)["context"] == sizes["context"]
        return EngineDecoder(trt, Cuda(cudart), tmp_path / "model.engine", gapless=gapless)

    return make
