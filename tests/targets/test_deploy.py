"""Deploying over SSH: copy, check, measure and record; resume after a break; roll back."""

from __future__ import annotations

import json
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from fake_jetson import SHORT, TRTEXEC, jetson, program
from small_bundle import wait_for_programs
from ssh_servers import Server, wire

from edgewright.benchmarks.metrics import why_unlike
from edgewright.targets import load_target
from edgewright.targets.bundle import make_bundle

pytest_plugins = ["deploy_fixtures"]


def test_deploy_copies_checks_measures_and_records(
    deployed: Any, artifact: Path, tmp_path: Path
) -> None:
    code, out, err = deployed(artifact)
    assert code == 0, err
    entry = json.loads(out)
    metrics = entry["metrics"]
    assert metrics["check/tokens"] == metrics["check/equal"] > 0
    assert (
        min(
            metrics[name]
            for name in ("ttft_ms/p50", "decode_tok_s/p50", "prefill_tok_s", "peak_rss_bytes")
        )
        > 0
    )
    assert metrics["size_bytes"] == sum(
        file.stat().st_size for file in artifact.glob("model.onnx*")
    )
    assert entry["context"]["packages"]["onnxruntime"]
    assert {
        name for name in metrics if why_unlike(name, entry["context"], entry["context"])
    } == set()
    assert entry["context"]["latency"]["prompt"] > 0
    assert entry["context"]["threads"] >= 1
    current = tmp_path / "device" / "tiny" / "current"
    assert current.resolve().name == entry["context"]["version"]
    assert (current / "model" / "model.onnx.data").read_bytes() == (
        artifact / "model.onnx.data"
    ).read_bytes()
    (step,) = json.loads((tmp_path / "ledger" / "ledger.json").read_text())["steps"]
    assert (step["name"], step["kind"], step["metrics"]) == ("tiny@cpu", "deploy", metrics)
    # again: nothing is copied, and the ledger has one entry
    code, out, _ = deployed(artifact)
    assert code == 0
    assert json.loads(out)["context"]["copied_bytes"] == 0
    assert len(json.loads((tmp_path / "ledger" / "ledger.json").read_text())["steps"]) == 1


def test_a_ledger_of_a_run_keeps_what_was_deployed(
    deployed: Any, artifact: Path, tmp_path: Path
) -> None:
    from edgewright.pipeline.ledger import Ledger

    assert deployed(artifact)[0] == 0
    ledger = Ledger.load(tmp_path / "ledger")
    ledger.put({"name": "prune", "kind": "prune"}, ["baseline", "prune"])
    assert [step["name"] for step in Ledger.load(tmp_path / "ledger").data["steps"]] == [
        "prune",
        "tiny@cpu",
    ]


def test_a_cut_connection_resumes_by_itself(deployed: Any, server: Server, artifact: Path) -> None:
    with wire(server.port, [900_000, 700_000]) as port:
        server.trust(port)
        code, out, err = deployed(artifact, port=port)
    assert code == 0, err
    assert err.count("connecting again") == 2
    assert json.loads(out)["metrics"]["check/equal"] > 0


def is_open(folder: Path) -> bool:
    """Whether a process has a file in `folder` open."""
    for process in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):  # it has ended
            for handle in os.listdir(f"/proc/{process}/fd"):
                with suppress(OSError):
                    if os.readlink(f"/proc/{process}/fd/{handle}").startswith(f"{folder}/"):
                        return True
    return False


def closed(folder: Path) -> None:
    """Wait until what a lost connection had on its way has arrived."""
    for _ in range(1000):
        if not is_open(folder):
            return
        time.sleep(0.01)
    raise TimeoutError(folder)


def test_a_lost_connection_keeps_what_was_copied(
    deployed: Any, server: Server, artifact: Path, tmp_path: Path
) -> None:
    size = make_bundle(artifact, load_target("cpu")).size
    with wire(server.port, [700_000, 300_000, 300_000]) as port:
        server.trust(port)
        code, _, err = deployed(artifact, port=port)
        assert (code, "run the same command again" in err) == (1, True), err
        place = tmp_path / "device" / "tiny"
        closed(place)
        assert not (place / "current").exists()
        assert not (place / "versions").exists()
        wait_for_programs(place)
        kept = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
        assert 0 < kept < size
        code, out, err = deployed(artifact, port=port)
    assert code == 0, err
    assert json.loads(out)["context"]["copied_bytes"] == size - kept
    assert json.loads(out)["metrics"]["check/equal"] > 0
    assert not (place / "incoming").exists()


def test_a_damaged_partial_copy_is_made_again(
    deployed: Any, artifact: Path, tmp_path: Path
) -> None:
    bundle = make_bundle(artifact, load_target("cpu"))
    part = tmp_path / "device" / "tiny" / "incoming" / bundle.id / "model" / "model.onnx.data.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"rubbish" * 1000)
    assert deployed(artifact)[0] == 0
    current = tmp_path / "device" / "tiny" / "current"
    assert (current / "model" / "model.onnx.data").read_bytes() == (
        artifact / "model.onnx.data"
    ).read_bytes()


def test_rollback_goes_to_the_version_before(deployed: Any, artifact: Path, tmp_path: Path) -> None:
    changed = tmp_path / "other" / "tiny"
    shutil.copytree(artifact, changed)
    (changed / "README.md").write_text("another version\n")
    versions = []
    for source in (artifact, changed):
        code, out, err = deployed(source)
        assert code == 0, err
        versions.append(json.loads(out)["context"]["version"])
    current = tmp_path / "device" / "tiny" / "current"
    assert current.resolve().name == versions[1]
    code, out, _ = deployed(changed, "--rollback")
    assert (code, json.loads(out)) == (0, {"current": versions[0], "previous": versions[1]})
    assert current.resolve().name == versions[0]


def test_an_engine_is_built_and_timed_on_a_jetson(
    deployed: Any, artifact: Path, tmp_path: Path
) -> None:
    jetson(tmp_path)
    program(tmp_path, "trtexec", TRTEXEC)
    code, out, err = deployed(artifact, *SHORT, target="jetson-orin-nano-8gb")
    assert code == 0, err
    entry = json.loads(out)
    metrics = entry["metrics"]
    assert (
        metrics["tensorrt/ttft_ms/p50"],
        metrics["tensorrt/prefill_tok_s"],
        metrics["tensorrt/decode_tok_s/p50"],
    ) == (4.0, 2000, 500)
    assert (metrics["device/power_w"], metrics["device/gpu_mhz"], metrics["device/emc_mhz"]) == (
        16.321,
        1020,
        3199,
    )
    assert (
        entry["context"]["power_mode"],
        entry["context"]["l4t"],
        entry["context"]["tensorrt"],
    ) == ("MAXN_SUPER", "36.4.3", "10.3.0")
    assert entry["details"]["decode_layers"] == [{"name": "a", "average_ms": 1, "percent": 100}]
    build = json.loads((tmp_path / "bin" / "trtexec.build").read_text())
    assert "--stronglyTyped" in build
    assert [flag for flag in build if flag.startswith("--profile=")] == [
        "--profile=0",
        "--profile=1",
    ]
    assert (
        tmp_path / "device" / "tiny" / "current" / "engine" / "model.engine"
    ).read_bytes() == b"engine"
    code, out, _ = deployed(artifact, *SHORT, target="jetson-orin-nano-8gb")
    assert json.loads(out)["details"]["engine"]["reused"] is True
