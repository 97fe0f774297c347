"""Fixtures for engines without TensorRT: a double's engine of any model, and its decoder."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import tensorrt_double as double
from cudart_double import Cudart
from trtexec_double import engine_file

from edgewright.export.onnx.cut import Cut
from edgewright.export.onnx.export import export_onnx
from edgewright.export.tensorrt.engine import PHASES, EngineSpec, profile_shapes
from edgewright.targets.device.cuda import Cuda
from edgewright.targets.device.engine_decoder import EngineDecoder

MakeDecoder = Callable[..., EngineDecoder]


@pytest.fixture
def cudart(monkeypatch: pytest.MonkeyPatch) -> Cudart:
    """A new device."""
    library = Cudart()
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


def engine_of(artifact: Path, file: Path, **more: Any) -> None:
    """Write the double's engine of an artifact.

    Args:
        artifact: the artifact.
        file: the engine.
        more: its sizes, of `EngineSpec`.
    """
    shape = json.loads((artifact / "edgewright.json").read_text())["shape"]
    names = ("num_hidden_layers", "num_key_value_heads", "head_dim")
    spec = EngineSpec(*(int(shape[name]) for name in names), **more)
    profiles = [
        {
            name: [shapes[name] for shapes in profile_shapes(spec, phase)]
            for name in profile_shapes(spec, phase)[0]
        }
        for phase in PHASES
    ]
    file.write_bytes(engine_file(artifact / "model.onnx", profiles))


def rtx_double() -> Any:
    """The double as TensorRT for RTX's module: it captures graphs by itself."""
    module = ModuleType("tensorrt_rtx")
    module.__dict__.update(vars(double) | {"__name__": "tensorrt_rtx"})
    module.CudaGraphStrategy = SimpleNamespace(WHOLE_GRAPH_CAPTURE=1)  # type: ignore[attr-defined]
    return module


@pytest.fixture
def decoder_of(cudart: Cudart, tmp_path: Path) -> MakeDecoder:
    """`decoder_of(artifact, prompt=8, context=64, gapless=False, trt=..., batch=1)`."""

    def make(artifact: Path, *, gapless: bool = False, trt: Any = double, **more: Any) -> Any:
        engine_of(artifact, tmp_path / "model.engine", **{"prompt": 8, "context": 64} | more)
        return EngineDecoder(trt, Cuda(cudart), tmp_path / "model.engine", gapless=gapless)

    return make


@pytest.fixture
def trt_python(python: Path, tmp_path: Path) -> Path:
    """An interpreter as `python`, which finds the double as the module `tensorrt`."""
    folder = tmp_path / "doubles"
    folder.mkdir()
    here = Path(__file__).parent
    for name in ("tensorrt_double.py", "cudart_double.py", "trtexec_double.py"):
        (folder / name).symlink_to(here / name)
    (folder / "tensorrt.py").write_text(
        "from tensorrt_double import *\n"
        "from tensorrt_double import __version__, install\n"
        "install()\n"
    )
    program = tmp_path / "python-trt"
    program.write_text(
        f'#!/bin/sh\nPYTHONPATH="${{PYTHONPATH:+$PYTHONPATH:}}{folder}" exec {python} "$@"\n'
    )
    program.chmod(0o755)
    return program


def add_trtexec(folder: Path) -> Path:
    """A trtexec in `folder/bin`, whose engines the double loads; returns the record of its runs."""
    double_file = Path(__file__).parent / "trtexec_double.py"
    file = folder / "bin" / "trtexec"
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"#!{sys.executable}\n{double_file.read_text()}")
    file.chmod(0o755)
    return file.with_name("trtexec.builds")
