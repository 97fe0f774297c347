"""A real sshd with a real llama.cpp server and with ONNX Runtime: deployments up to the verdict."""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import onnx
import pytest
import yaml

from edgewright.checkpoints.config import BUILTIN_MODEL, model_path
from edgewright.compress.quantize.options import QuantizeOptions
from edgewright.compress.quantize.runner import quantize
from edgewright.export.options import ExportOptions
from edgewright.export.runner import export
from edgewright.steps.context import CalibrationData, StepContext

from ssh_servers import Server, real_sshd, wire  # isort: skip
from llama_program import llama_server  # isort: skip

SSHD = shutil.which("sshd", path=f"{os.defpath}:/usr/sbin")
pytestmark = [
    pytest.mark.compat,
    pytest.mark.skipif(SSHD is None, reason="needs sshd, which make deploy-test installs"),
]
CONTEXT = StepContext(CalibrationData(samples=8, seq_len=64))
CUTS = 10
SCALE_BYTES = 2
BLOCK_BYTES = 18
"""A block of Q4_0: a scale in half precision, and 32 weights in 4 bits."""


def swap_in_graph(artifact: Path) -> None:
    """Swap the scales of keys and values in every layer of an ONNX artifact."""
    file = artifact / "model.onnx"
    model = onnx.load(file, load_external_data=False)
    scales = {tensor.name: tensor for tensor in model.graph.initializer}
    for name, tensor in list(scales.items()):
        if name.endswith("k_proj.weight_scale"):
            other = scales[name.replace("k_proj", "v_proj")]
            tensor.name, other.name = other.name, tensor.name
    onnx.save(model, file)


def swap_in_gguf(artifact: Path) -> None:
    """Swap the scales of keys and values in every layer of a GGUF file in Q4_0."""
    reader = gguf.GGUFReader(artifact / "model.gguf", "r+")
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    for name, keys in tensors.items():
        if "attn_k.weight" in name:
            sides = [keys, tensors[name.replace("attn_k", "attn_v")]]
            blocks = [side.reshape(side.shape[0], -1, BLOCK_BYTES) for side in sides]
            kept = blocks[0][..., :SCALE_BYTES].copy()
            blocks[0][..., :SCALE_BYTES] = blocks[1][..., :SCALE_BYTES]
            blocks[1][..., :SCALE_BYTES] = kept
    reader.data.flush()


BREAK = {"onnx": swap_in_graph, "gguf": swap_in_gguf}
Deployed = Callable[..., tuple[int, Any, str]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in 4 bits of the built-in model, and its artifacts beside it."""
    folder = tmp_path_factory.mktemp("run")
    options = QuantizeOptions(method="gptq", bits=4, group_size=32)
    quantize(options, Path(model_path(BUILTIN_MODEL)), folder / "int4", CONTEXT)
    for format in BREAK:
        given = ExportOptions.model_validate({"format": format, "precision": "int4"})
        export(given, folder / "int4", folder / format, CONTEXT)
    return folder


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A real sshd on loopback whose PATH has a real llama-server."""
    for folder in ("bin", "ssh"):
        (tmp_path / folder).mkdir()
    llama_server(tmp_path / "bin")
    with real_sshd(tmp_path / "ssh", f"{tmp_path / 'bin'}:{os.environ['PATH']}") as running:
        running.trust()
        yield running


@pytest.fixture
def deployed(cli: Callable[..., tuple[int, str, str]], server: Server, tmp_path: Path) -> Deployed:
    """Calls `edgewright deploy`; returns the exit code, what was recorded, and the messages."""

    def call(artifact: Path, *more: object, port: int | None = None) -> tuple[int, Any, str]:
        where = ("--host", server.host, "--port", port or server.port, "--threads", 1)
        login = ("--identity", server.identity, "--known-hosts", server.known_hosts)
        place = ("--remote-dir", tmp_path / "device", "--ledger", tmp_path / "ledger")
        python = ("--python", sys.executable, "--target", "cpu", "--json")
        code, out, err = cli("deploy", artifact, *where, *login, *place, *python, *more)
        return code, json.loads(out) if out.strip() else None, err

    return call


@pytest.mark.parametrize("format", BREAK)
def test_good_is_accepted_and_swapped_scales_are_rejected(
    format: str, run: Path, deployed: Deployed, tmp_path: Path
) -> None:
    current = tmp_path / "device" / format / "current"
    tasks = ("--tasks", "reasoning", "--limit", 12)
    code, good, err = deployed(run / format, *tasks)
    assert code == 0, err
    assert (good["gate"]["verdict"], good["accepted"]) == ("pass", True)
    assert good["metrics"]["answers/top1"] >= 0.99
    assert good["metrics"]["answers/kl"] < 1e-3
    assert good["metrics"]["accuracy/reasoning"] > 0.8
    assert good["metrics"]["peak_rss_bytes"] > 1e7
    assert current.resolve().name == good["context"]["version"]
    broken = tmp_path / "broken" / format
    shutil.copytree(run / format, broken)
    BREAK[format](broken)
    reference = ("--reference", run / "int4")
    code, bad, err = deployed(broken, *reference, *tasks)
    assert code == 5, err
    assert (bad["gate"]["verdict"], bad["accepted"]) == ("fail", False)
    assert bad["name"] == f"{format}@cpu-rejected"
    failed = {c["metric"] for c in bad["gate"]["checks"] if c["verdict"] == "fail"}
    assert "answers/kl" in failed
    assert current.resolve().name == good["context"]["version"]
    steps = json.loads((tmp_path / "ledger" / "ledger.json").read_text())["steps"]
    assert [step["name"] for step in steps] == [f"{format}@cpu", f"{format}@cpu-rejected"]
    assert any("weights or scales" in note for note in bad["notes"])


@pytest.mark.parametrize(("inconclusive", "expected"), [("warn", 0), ("fail", 5)])
def test_inconclusive_is_said(
    inconclusive: str, expected: int, run: Path, deployed: Deployed, tmp_path: Path
) -> None:
    policy = tmp_path / "policy.yaml"
    limits = {"answers/garbage": {"max": 0.1}}
    policy.write_text(yaml.safe_dump({"limits": limits, "inconclusive": inconclusive}))
    code, found, err = deployed(run / "gguf", "--policy", policy, "--questions", 4)
    assert code == expected, err
    assert (found["gate"]["verdict"], found["accepted"]) == ("inconclusive", expected == 0)
    assert "inconclusive" in err
    assert (tmp_path / "device" / "gguf" / "current").exists() == (expected == 0)


def programs_in(folder: Path) -> list[bytes]:
    """Command lines of the processes that work below a folder."""
    found: list[bytes] = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if Path(os.readlink(process / "cwd")).is_relative_to(folder):
                found.append((process / "cmdline").read_bytes())
        except OSError:  # it has ended
            continue
    return found


@pytest.mark.parametrize("format", BREAK)
def test_a_connection_cut_at_random_moments(
    format: str, run: Path, deployed: Deployed, server: Server, tmp_path: Path
) -> None:
    few = ("--questions", 4, "--answer-tokens", 8, "--reference", run / "int4")
    artifact = tmp_path / "other" / format
    shutil.copytree(run / format, artifact)
    place = tmp_path / "device" / format
    sent: list[int] = []
    with wire(server.port, [], sent) as port:
        server.trust(port)
        assert deployed(artifact, *few, port=port)[0] == 0
    moments = random.Random(21).sample(sent, CUTS // len(BREAK))
    before = (place / "current").resolve().name
    for number, moment in enumerate(moments):
        (artifact / "README.md").write_text(f"version {number}\n")
        with wire(server.port, [moment, 0, 0]) as port:
            server.trust(port)
            code, _, err = deployed(artifact, *few, port=port)
        assert code in (0, 1), err
        end = time.monotonic() + 120
        while programs_in(place):
            assert time.monotonic() < end, programs_in(place)
            time.sleep(0.1)
        with wire(server.port, [moment]) as port:
            server.trust(port)
            code, found, err = deployed(artifact, *few, port=port)
        assert code == 0, err
        now = (place / "current").resolve().name
        assert now == found["context"]["version"] != before
        assert {file.name for file in place.iterdir()} <= {
            ".lock",
            "versions",
            "current",
            "previous",
        }
        before = now
