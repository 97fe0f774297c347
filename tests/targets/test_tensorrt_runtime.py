"""`--runtime tensorrt`: a bundle's engine answers, is judged, and is refused where it cannot run.

TensorRT, CUDA and trtexec are doubles; the tokens come from the artifact in ONNX Runtime.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engine_fixtures import add_trtexec
from fake_jetson import jetson
from test_answer_lines import answers, ask

from edgewright.export.onnx.runtime import OnnxDecoder
from edgewright.targets import load_target
from edgewright.targets.bundle import make_bundle, write_bundle
from edgewright.targets.options import BundleOptions

pytest_plugins = ["deploy_fixtures", "engine_fixtures"]

NANO = "jetson-orin-nano-8gb"
SIZES = BundleOptions(prompt=8, context=64)
IDS = [3, 14, 15, 92, 65, 35, 89, 79, 32, 38, 46, 26]
Run = Callable[..., tuple[int, list[dict[str, Any]]]]


@pytest.fixture
def trt_bundle(artifact: Path, tmp_path: Path) -> Path:
    """A bundle for a Jetson, as it lies there."""
    jetson_folder = tmp_path / "bin"
    jetson_folder.mkdir()
    jetson(tmp_path)
    add_trtexec(tmp_path)
    return write_bundle(make_bundle(artifact, load_target(NANO), SIZES), tmp_path / "bundle")


@pytest.fixture
def run_there(trt_bundle: Path, trt_python: Path, tmp_path: Path) -> Run:
    """Calls run.sh; returns its exit code and the documents that it printed."""

    def call(*words: str, python: Path = trt_python) -> Any:
        done = subprocess.run(
            [str(trt_bundle / "run.sh"), "--threads", "1", *words],
            capture_output=True,
            text=True,
            env={"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "PYTHON": str(python)},
            check=False,
        )
        printed = done.stderr.splitlines()[-1:] if done.returncode else done.stdout.splitlines()
        return done.returncode, [*map(json.loads, printed)]

    return call


def test_the_engine_of_a_bundle_answers(
    artifact: Path, trt_bundle: Path, trt_python: Path, run_there: Run
) -> None:
    code, (built,) = run_there("build")
    assert (code, built["reused"]) == (0, False)
    expected = [*OnnxDecoder(artifact, 1).stream(IDS, 10)]
    path = f"{trt_bundle.parent / 'bin'}:{os.environ['PATH']}"
    with subprocess.Popen(
        [str(trt_bundle / "run.sh"), "answer", "--runtime", "tensorrt"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={"PATH": path, "PYTHON": str(trt_python)},
    ) as process:
        ready = answers(process, "ready")[0]["ready"]
        assert (ready["provider"], ready["details"]["version"]) == ("tensorrt", "10.3.0")
        assert ready["details"]["graphs"] == "one for each room"
        memory = ready["details"]["memory"]
        assert memory["device_bytes"] > memory["cache_bytes"] > 0 < ready["load_s"]
        ask(process, {"ids": IDS, "new_tokens": 10, "ends": []})
        *tokens, done = answers(process, "done")
        assert [one["token"] for one in tokens] == expected
        assert len(done["done"]["token_s"]) == 9
        assert min(done["done"]["first_s"], *done["done"]["token_s"]) > 0
        assert done["done"]["peak_rss_bytes"] > 1e6
        ask(process, {"ids": IDS, "new_tokens": 10, "ends": [expected[3]]})
        assert len(answers(process, "done")) == expected.index(expected[3]) + 2
        ask(process, {"ids": IDS, "continuation": expected[:4], "top": 8})
        (scored,) = answers(process, "scored")
        assert [best[0] for best in scored["scored"]["ids"]] == expected[:4]
        assert scored["scored"]["not_finite"] == 0
        assert process.communicate()[0] == '{"answered": 3}\n'


def test_it_generates_sampled_and_streamed(artifact: Path, run_there: Run) -> None:
    run_there("build")
    words = ("--ids", ",".join(map(str, IDS)), "--new-tokens", "6", "--temperature", "2")
    words += ("--seed", "3", "--stream")
    made = [
        run_there("generate", "--runtime", name, *words) for name in ("tensorrt", "onnxruntime")
    ]
    assert made[0] == made[1]
    code, said = made[0]
    assert code == 0
    assert [one["token"] for one in said[:-1]] == said[-1]["tokens"]


@pytest.mark.parametrize(
    ("stamp", "engine", "message"),
    [
        (None, None, "no engine was built there"),
        ({"tensorrt": "10.7.0"}, None, "built by TensorRT 10.7.0 on .*this is TensorRT 10.3.0 on"),
        ({"board": "AGX"}, None, "built by TensorRT 10.3.0 on AGX, and this is TensorRT 10.3.0 on"),
        ({}, {"version": "10.7.0"}, r"TensorRT 10.3.0 cannot load it.*\(10.7.0 != 10.3.0\)"),
        (
            {},
            {"compute": [8, 6]},
            "compute capability 8.7: .*expecting compute 8.6 got compute 8.7",
        ),
        ({}, "damaged", "magicTag"),
    ],
)
def test_an_engine_of_another_place(
    trt_bundle: Path, run_there: Run, stamp: Any, engine: Any, message: str
) -> None:
    run_there("build")
    folder = trt_bundle / "engine"
    made = json.loads((folder / "built-with.json").read_text())
    if stamp is None:
        (folder / "built-with.json").unlink()
    else:
        (folder / "built-with.json").write_text(json.dumps(made | stamp))
    file = folder / "model.engine"
    if engine == "damaged":
        file.write_bytes(b"rubbish")
    elif engine:
        file.write_text(json.dumps(json.loads(file.read_text()) | engine))
    code, (said,) = run_there("answer", "--runtime", "tensorrt")
    assert code in (1, 2)
    assert re.search(message, said["error"]), said["error"]
    assert "run.sh build" in said["hint"]


def test_a_device_without_the_module(run_there: Run, python: Path) -> None:
    run_there("build")
    code, (said,) = run_there("answer", "--runtime", "tensorrt", python=python)
    assert (code, said["error"]) == (1, "the Python module tensorrt is not on this device")
    assert "python3-libnvinfer" in said["hint"]


@pytest.mark.parametrize("target", [NANO, "cpu"])
def test_it_is_deployed_and_judged(
    target: str, deployed: Any, artifact: Path, make_model: Any, trt_python: Path, tmp_path: Path
) -> None:
    jetson(tmp_path)
    record = add_trtexec(tmp_path)
    sizes = {"num_hidden_layers": 1, "intermediate_size": 1024}
    options = ("--runtime", "tensorrt", "--python", trt_python, "--prompt", 64, "--context", 256)
    options += ("--answer-tokens", 8)
    options += ("--reference", make_model("llama", **sizes))
    code, out, err = deployed(artifact, *options, target=target)
    assert code == 0, err
    entry = json.loads(out)
    metrics = entry["metrics"]
    assert entry["gate"]["verdict"] == "pass"
    assert (metrics["answers/top1"], metrics["answers/prefix"]) == (1, 1)
    assert (entry["context"]["backend"], entry["context"]["device"]) == ("tensorrt", "tensorrt")
    assert entry["details"]["runtime"]["version"] == "10.3.0"
    assert entry["details"]["runtime"]["memory"]["cache_bytes"] > 0
    assert metrics["size_bytes"] == sum(
        file.stat().st_size for file in artifact.glob("model.onnx*")
    )
    for name in ("ttft_ms/p50", "decode_tok_s/p50", "peak_rss_bytes", "tensorrt/size_bytes"):
        assert metrics[name] > 0
    assert (metrics["device/power_w"], metrics["device/gpu_mhz"]) == (16.321, 1020)
    assert entry["context"]["power_mode"] == "MAXN_SUPER"
    assert "check/tokens" not in metrics, "that is measured in ONNX Runtime"
    (build,) = map(json.loads, record.read_text().splitlines())
    place = tmp_path / "device"
    assert Path(build["timingCacheFile"]) == place / ".timing" / "10.3.0-an-unknown-board.cache"
    assert Path(build["timingCacheFile"]).read_bytes() == b"times"
    assert sorted(file.name for file in place.iterdir()) == [".timing", "tiny"]


def test_a_device_without_tensorrt_is_refused_before_the_copy(
    deployed: Any, artifact: Path, tmp_path: Path
) -> None:
    jetson(tmp_path)
    add_trtexec(tmp_path)
    code, _, err = deployed(artifact, "--runtime", "tensorrt", "--no-answers", target=NANO)
    assert (code, "has no module tensorrt" in err) == (3, True), err
    assert not (tmp_path / "device").exists()
