"""Fixtures for the HTTP server: an artifact that is served, and a running server."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgewright.export.onnx.export import export_onnx
from edgewright.export.onnx.runtime import OnnxDecoder
from edgewright.targets.serving.service import Service

from server_helpers import running  # isort: skip


@pytest.fixture(scope="module")
def served(make_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("serve") / "tiny"
    export_onnx(make_model("llama", num_hidden_layers=2), out, "fp32")
    return out


@pytest.fixture(scope="module")
def port(served: Path) -> Iterator[int]:
    with running(Service(served, 1, max_batch=4)) as found:
        yield found.port


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """No decoder makes a step until this is set."""
    release = threading.Event()
    real = OnnxDecoder.step

    def step(*arguments: Any) -> Any:
        release.wait(120)
        return real(*arguments)

    monkeypatch.setattr(OnnxDecoder, "step", step)
    yield release
    release.set()
