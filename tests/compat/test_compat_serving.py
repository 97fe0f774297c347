"""schemathesis tests a running server by its OpenAPI description and finds no fault."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgewright.export.onnx.export import export_onnx

from test_compat import environment  # isort: skip

pytestmark = pytest.mark.compat
SETTINGS = """
warnings = false

[checks.positive_data_acceptance]
expected-statuses = ["2xx", "400", "401", "404", "429"]
"""
"""A request that its description allows may still be refused with 400, and most random chats are:
fields may contradict each other, which no description says, the model's template has no tools, and
a prompt may have more tokens than the context."""


@pytest.fixture
def port(make_model: Callable[..., Path], tmp_path: Path) -> Iterator[int]:
    """Start `edgewright serve` in a process of its own: its port."""
    export_onnx(
        make_model("llama", num_hidden_layers=1, max_position_embeddings=4096),
        tmp_path / "tiny",
        "fp32",
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = int(probe.getsockname()[1])
    server = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "edgewright.cli",
            "serve",
            str(tmp_path / "tiny"),
            "--port",
            str(free),
            "--threads",
            "1",
        ],
        stderr=(tmp_path / "log").open("w"),
    )
    for _ in range(300):
        assert server.poll() is None, (tmp_path / "log").read_text()
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", free)) == 0:
                break
        time.sleep(0.1)
    yield free
    server.terminate()
    server.wait()
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_schemathesis_finds_nothing(port: int, tmp_path: Path) -> None:
    program = environment("schemathesis").parent / "schemathesis"
    settings = tmp_path / "schemathesis.toml"
    settings.write_text(SETTINGS)
    done = subprocess.run(
        [
            str(program),
            "--config-file",
            str(settings),
            "run",
            f"http://127.0.0.1:{port}/openapi.json",
            "--checks",
            "all",
            "--max-examples",
            "60",
            "--seed",
            "1",
            "--request-timeout",
            "300",
            "--max-response-time",
            "300",
            "--phases",
            "examples,coverage,fuzzing,stateful",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "No issues found" in done.stdout
