"""A bundle in an emulated arm64 Debian generates the tokens it was made with (`make arm64`)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from edgewright.checkpoints.config import BUILTIN_MODEL, model_path
from edgewright.compress.quantize.options import QuantizeOptions
from edgewright.compress.quantize.runner import quantize
from edgewright.export.onnx.export import export_onnx
from edgewright.export.onnx.runtime import OnnxDecoder
from edgewright.steps.context import CalibrationData, StepContext
from edgewright.targets import load_target
from edgewright.targets.bundle import make_bundle, write_bundle

pytestmark = pytest.mark.arm64
HOME = Path(__file__).parents[2] / ".compat" / "arm64"
PACKAGES = ("onnxruntime==1.23.2", "numpy==2.2.6")
"""Not onnxruntime 1.31.1: it crashes at import under qemu 7.2."""
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64")


def userland() -> Path:
    """The files of an arm64 Debian with Python 3.11, made once.

    They are unpacked, not installed, which needs no chroot.
    """
    root, done = HOME / "root", HOME / "root.done"
    if not done.exists():
        shutil.rmtree(root, ignore_errors=True)
        HOME.mkdir(parents=True, exist_ok=True)
        names = "--include=python3,libstdc++6,zlib1g"
        subprocess.run(
            [
                "debootstrap",
                "--foreign",
                "--arch=arm64",
                "--variant=minbase",
                names,
                "bookworm",
                str(root),
            ],
            check=True,
        )
        for package in sorted((root / "var/cache/apt/archives").glob("*.deb")):
            subprocess.run(["dpkg", "-x", str(package), str(root)], check=True)
        done.touch()
    return root


def packages() -> Path:
    """numpy and onnxruntime for arm64, unpacked from their wheels."""
    site = HOME / "site"
    if not (site / "done").exists():
        wheels = HOME / "wheels"
        where = [part for platform in PLATFORMS for part in ("--platform", platform)]
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary=:all:",
            *where,
            "--python-version",
            "3.11",
        ]
        subprocess.run([*command, "--dest", str(wheels), *PACKAGES], check=True)
        for wheel in wheels.glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(site)
        (site / "done").touch()
    return site


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python interpreter for arm64, run by qemu."""
    root, site = userland(), packages()
    program = tmp_path_factory.mktemp("arm64") / "python3"
    program.write_text(
        f'#!/bin/sh\nPYTHONPATH="$PYTHONPATH:{site}" exec qemu-aarch64-static -cpu cortex-a76 '
        f'-L {root} {root}/usr/bin/python3.11 "$@"\n'
    )
    program.chmod(0o755)
    return program


@pytest.fixture(scope="module", params=["fp32", "int4"])
def artifact(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in model, exported in fp32 and in INT4."""
    source, folder = Path(model_path(BUILTIN_MODEL)), tmp_path_factory.mktemp(request.param)
    if request.param == "int4":
        quantize(
            QuantizeOptions(),
            source,
            folder / "gptq",
            StepContext(CalibrationData(samples=8, seq_len=64)),
        )
        source = folder / "gptq"
    export_onnx(source, folder / "reasoner", request.param)
    return folder / "reasoner"


def test_the_same_tokens_on_arm64(artifact: Path, python: Path, tmp_path: Path) -> None:
    bundle = write_bundle(
        make_bundle(artifact, load_target("jetson-orin-nano-8gb")), tmp_path / "bundle"
    )

    def run(*words: str) -> dict[str, object]:
        environment = {"PATH": os.environ["PATH"], "PYTHON": str(python)}
        done = subprocess.run(
            [str(bundle / "run.sh"), "--threads", "1", *words],
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout.splitlines()[-1])

    assert run("probe")["machine"] == "aarch64"
    result = run("check")
    assert result["check/equal"] == result["check/tokens"] == 48
    ids = np.arange(30, 42)[None]
    expected = OnnxDecoder(artifact, 1).generate(
        ids, np.ones_like(ids), 32, make_bundle(artifact, load_target("cpu")).manifest["eos_ids"]
    )
    assert (
        run("generate", "--ids", ",".join(map(str, ids[0])), "--new-tokens", "32")["tokens"]
        == expected[0].tolist()
    )
