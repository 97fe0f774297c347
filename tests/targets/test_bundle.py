"""Bundles without a device: run.sh with a bare interpreter, the id, and wrong options."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgewright.targets import load_target
from edgewright.targets.bundle import make_bundle, write_bundle
from edgewright.targets.device.manifest import identity
from edgewright.targets.options import BundleOptions

pytest_plugins = ["deploy_fixtures"]

Cli = Callable[..., tuple[int, str, str]]


def run_bundle(bundle: Path, python: Path, *words: str) -> tuple[int, dict[str, Any]]:
    """Call run.sh; returns its exit code and JSON document, after checking streamed tokens."""
    done = subprocess.run(
        [str(bundle / "run.sh"), *words],
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], "PYTHON": str(python)},
        check=False,
    )
    *streamed, last = (done.stdout or done.stderr).splitlines()
    document = json.loads(last)
    assert [json.loads(line)["token"] for line in streamed] == (
        document["tokens"] if streamed else []
    )
    assert bool(streamed) == ("--stream" in words)
    return done.returncode, document


def test_a_bundle_runs_by_itself(artifact: Path, python: Path, tmp_path: Path) -> None:
    from edgewright.export.onnx.runtime import OnnxDecoder

    def run(*words: str) -> Any:
        return run_bundle(bundle, python, *words)

    bundle = write_bundle(make_bundle(artifact, load_target("cpu")), tmp_path / "bundle")
    code, verified = run("verify")
    assert (code, verified["files"] > 10) == (0, True)
    code, document = run("generate", "--ids", "5,6,7,8", "--new-tokens", "6")
    ids = np.array([[5, 6, 7, 8]])
    assert (code, document["tokens"]) == (
        0,
        OnnxDecoder(artifact, 1).generate(ids, np.ones_like(ids), 6, [0])[0].tolist(),
    )
    drawn = [
        run(
            "generate",
            "--ids",
            "5,6,7,8",
            "--new-tokens",
            "6",
            "--temperature",
            "2",
            "--seed",
            seed,
            "--stream",
        )[1]
        for seed in "112"
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    bad, refused = run("generate", "--ids", "5", "--top-p", "0")
    assert (bad, "top_p 0" in refused["error"]) == (2, True)
    assert run("check")[0] == 0
    manifest = json.loads((bundle / "bundle.json").read_text())
    manifest["check"][0]["tokens"][3] ^= 1
    manifest["id"] = identity(manifest)
    (bundle / "bundle.json").write_text(json.dumps(manifest))
    code, document = run("check")
    assert (code, "token 4" in document["error"]) == (4, True)
    (bundle / "model" / "model.onnx").write_bytes(b"")
    code, document = run("verify")
    assert (code, "model/model.onnx" in document["error"]) == (1, True)
    code, document = run("build")
    assert (code, "trtexec is not on this device" in document["error"]) == (1, True)


def test_the_same_artifact_gives_the_same_bundle(artifact: Path) -> None:
    one, two = (make_bundle(artifact, load_target("cpu")) for _ in range(2))
    other = make_bundle(artifact, load_target("cpu"), BundleOptions(context=1024))
    assert one.id == two.id != other.id


def test_a_context_that_does_not_fit_is_refused(artifact: Path, cli: Cli, tmp_path: Path) -> None:
    code, _, err = cli(
        "deploy",
        artifact,
        "--target",
        "jetson-orin-nano-4gb",
        "--out",
        tmp_path / "b",
        "--context",
        4_000_000,
    )
    assert (code, "too little" in err) == (3, True), err
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("host", "more"),
    [
        ("jetson", ()),
        ("@jetson", ()),
        ("", ()),
        ("a@b", ("--out", "x")),
        ("a@b", ("--port", 70_000)),
        ("a@b", ("--remote-dir", "~/x")),
    ],
)
def test_wrong_usage(cli: Cli, artifact: Path, host: str, more: Any) -> None:
    assert cli("deploy", artifact, "--target", "cpu", "--host", host, *more)[0] == 2
