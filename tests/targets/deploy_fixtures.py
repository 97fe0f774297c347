"""Fixtures for deployments: an artifact, an SSH server that stands for a device, and the command.

The server is asyncssh's, in this process. With `-m sshd` (make deploy-test) it is the real sshd.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ssh_servers import Server, asyncssh_server, real_sshd  # isort: skip

from edgewright.export.onnx.export import export_onnx

SERVERS = {"asyncssh": asyncssh_server, "sshd": real_sshd}
Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def artifact(make_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float artifact of one layer, 1.7 MB."""
    out = tmp_path_factory.mktemp("run") / "tiny"
    export_onnx(make_model("llama", num_hidden_layers=1, intermediate_size=1024), out, "fp32")
    return out


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that has numpy and onnxruntime, and neither torch nor edgewright."""
    folder = tmp_path_factory.mktemp("python")
    site = (
        Path(shutil.__file__).parent / "site-packages"
        if sys.prefix == sys.base_prefix
        else next(Path(sys.prefix).glob("lib/python*/site-packages"))
    )
    for package in site.iterdir():
        if package.name.startswith(("numpy", "onnxruntime")):
            (folder / package.name).symlink_to(package)
    program = folder / "python3"
    program.write_text(
        f'#!/bin/sh\nPYTHONPATH="${{PYTHONPATH:+$PYTHONPATH:}}{folder}" '
        f'exec {sys.executable} -S "$@"\n'
    )
    program.chmod(0o755)
    return program


@pytest.fixture(params=["asyncssh", pytest.param("sshd", marks=pytest.mark.sshd)])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """A trusted server whose PATH has `tmp_path/bin` in front."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "ssh").mkdir()
    with SERVERS[request.param](
        tmp_path / "ssh", f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    ) as running:
        running.trust()
        yield running


@pytest.fixture
def deployed(
    cli: Cli, server: Server, python: Path, tmp_path: Path
) -> Callable[..., tuple[int, str, str]]:
    """Calls `edgewright deploy` on that server."""

    def call(
        artifact: Path, *more: object, target: str = "cpu", port: int | None = None
    ) -> tuple[int, str, str]:
        return cli(
            "deploy",
            artifact,
            "--target",
            target,
            "--host",
            server.host,
            "--port",
            port or server.port,
            "--identity",
            server.identity,
            "--known-hosts",
            server.known_hosts,
            "--remote-dir",
            tmp_path / "device",
            "--python",
            python,
            "--threads",
            1,
            "--ledger",
            tmp_path / "ledger",
            "--json",
            *more,
        )

    return call
