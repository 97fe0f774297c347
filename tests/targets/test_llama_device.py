"""llama.cpp on a device: found, started, asked through SSH, judged, stopped; also when it breaks.

The server is a double; tests/compat/test_compat_device.py has the real one.
"""

from __future__ import annotations

import json
import os
import random
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from fake_jetson import jetson, program
from fake_llama import BROKEN, GOOD, PROGRAM, exam, gguf_bundle, programs_in, wait_until_none
from small_bundle import address_of, wait_for_programs, whole_version
from ssh_servers import Server, wire

from edgewright.benchmarks.gate.policy import Policy
from edgewright.errors import EdgewrightError, Refused
from edgewright.targets import deploy as deploy_module
from edgewright.targets import load_target
from edgewright.targets.acceptance.judge import Judge
from edgewright.targets.bundle import Bundle
from edgewright.targets.deploy import deploy
from edgewright.targets.deploy_job import Acceptance, Deployment
from edgewright.targets.options import DeployOptions
from edgewright.targets.runtimes.interface import RunSettings
from edgewright.targets.runtimes.llama_cpp import LlamaCpp

pytest_plugins = ["deploy_fixtures"]

CUTS = 10


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deploy_module, "PAUSE_SECONDS", 0.0)


def send(
    bundle: Bundle, server: Server, root: Path, *, port: int | None = None, **more: Any
) -> Deployment:
    """Deploy to `root/device`."""
    options = DeployOptions(remote_dir=str(root / "device"), threads=1)
    runtime = LlamaCpp(RunSettings(threads=1, llama_server=more.pop("llama_server", "")), 5)
    questions = exam(more.pop("questions", 16))
    acceptance = Acceptance(questions, Judge(Policy(**more.pop("policy", {}))), **more)
    address = address_of(server, port)
    folder = root / bundle.name
    return deploy(bundle, folder, load_target("cpu"), address, options, runtime, acceptance)


@pytest.fixture
def place(server: Server, tmp_path: Path) -> Path:
    """A device that has llama-server."""
    program(tmp_path, "llama-server", PROGRAM)
    return tmp_path / "device" / "letters"


def test_a_good_version_is_accepted(server: Server, tmp_path: Path, place: Path) -> None:
    jetson(tmp_path)
    bundle = gguf_bundle(tmp_path, GOOD)
    done = send(bundle, server, tmp_path)
    assert done.accepted
    assert done.gate is not None
    assert done.gate["verdict"] == "pass"
    assert done.metrics["device/power_w"] == pytest.approx(16.321)
    assert done.device["power_mode"] == "MAXN_SUPER"
    assert (done.metrics["answers/top1"], done.metrics["answers/top1/n"]) == (1, 48)
    assert done.metrics["answers/kl"] < 1e-4
    assert (done.metrics["ttft_ms/p50"], done.metrics["token_ms/p50"]) == pytest.approx((10, 5))
    assert done.metrics["peak_rss_bytes"] > 1e6
    assert done.details["runtime"]["version"] == "version: 1 (double)"
    assert done.details["answers"][0]["answer"] == done.details["answers"][0]["expected"]
    assert whole_version(place) == bundle.id
    assert programs_in(place) == []
    wait_for_programs(tmp_path / "bin")


def test_the_key_is_only_in_the_environment(server: Server, tmp_path: Path, place: Path) -> None:
    for _ in range(2):
        send(gguf_bundle(tmp_path, GOOD), server, tmp_path)
    started = list(map(json.loads, (tmp_path / "bin" / "started").read_text().splitlines()))
    keys = {key for _, key in started}
    assert len(keys) == 2
    assert min(map(len, keys)) >= 32
    for words, key in started:
        assert not any(key in word for word in words)
        assert words[words.index("--host") + 1] == "127.0.0.1"


@pytest.mark.parametrize("keep", [False, True])
def test_a_broken_version_is_rejected(
    server: Server, tmp_path: Path, place: Path, keep: bool
) -> None:
    good = gguf_bundle(tmp_path, GOOD)
    send(good, server, tmp_path)
    bad = gguf_bundle(tmp_path, BROKEN)
    done = send(bad, server, tmp_path, keep_rejected=keep)
    assert not done.accepted
    assert done.gate is not None
    assert done.gate["verdict"] == "fail"
    assert any("weights or scales of a layer are wrong" in note for note in done.notes)
    assert whole_version(place) == good.id
    assert not (place / "previous").exists()
    assert [folder.name for folder in (place / "versions").iterdir()] == [good.id]
    kept = [folder.name for folder in place.glob("rejected/*")]
    assert kept == ([bad.id] if keep else [])
    again = send(gguf_bundle(tmp_path, {**BROKEN, "more": 1}), server, tmp_path, keep_rejected=keep)
    assert len(list(place.glob("rejected/*"))) == keep
    assert again.version not in {bad.id, good.id}
    assert programs_in(place) == []


def test_a_rejected_version_that_is_in_use_stays(
    server: Server, tmp_path: Path, place: Path
) -> None:
    bundle = gguf_bundle(tmp_path, GOOD)
    send(bundle, server, tmp_path)
    strict = {"limits": {"answers/prefix": {"min": 1.1 - 0.1, "max_drop": -1}}}
    assert not send(bundle, server, tmp_path, policy=strict).accepted
    assert whole_version(place) == bundle.id


def test_inconclusive_is_said_and_counts_as_the_policy_says(
    server: Server, tmp_path: Path, place: Path
) -> None:
    bundle = gguf_bundle(tmp_path, GOOD)
    limits = {"answers/garbage": {"max": 0.05}}
    done = send(bundle, server, tmp_path, policy={"limits": limits})
    assert done.gate is not None
    assert (done.gate["verdict"], done.accepted) == ("inconclusive", True)
    assert whole_version(place) == bundle.id
    other = gguf_bundle(tmp_path, {**GOOD, "more": 1})
    strict = {"limits": limits, "inconclusive": "fail"}
    done = send(other, server, tmp_path, policy=strict)
    assert done.gate is not None
    assert (done.gate["verdict"], done.accepted) == ("inconclusive", False)
    assert whole_version(place) == bundle.id


def test_a_server_that_does_not_start(server: Server, tmp_path: Path, place: Path) -> None:
    with pytest.raises(EdgewrightError, match="unknown architecture") as caught:
        send(gguf_bundle(tmp_path, {**GOOD, "fails": True}), server, tmp_path)
    assert "update llama.cpp" in caught.value.hint
    assert not (place / "current").exists()
    assert programs_in(place) == []


def test_a_server_that_dies(server: Server, tmp_path: Path, place: Path) -> None:
    with pytest.raises(EdgewrightError, match="ran out of memory"):
        send(gguf_bundle(tmp_path, {**GOOD, "dies": True}), server, tmp_path)
    assert programs_in(place) == []


def test_no_server(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Refused, match="llama-server is not on PATH") as caught:
        send(gguf_bundle(tmp_path, GOOD), server, tmp_path)
    assert "--llama-server PATH" in caught.value.hint
    with pytest.raises(EdgewrightError, match="/nowhere/llama-server: no such program"):
        send(gguf_bundle(tmp_path, GOOD), server, tmp_path, llama_server="/nowhere/llama-server")


def test_a_named_server(server: Server, tmp_path: Path) -> None:
    (tmp_path / "else where").mkdir()
    named = tmp_path / "else where" / "my server"
    named.write_text(PROGRAM)
    named.chmod(0o755)
    done = send(gguf_bundle(tmp_path, GOOD), server, tmp_path, llama_server=str(named))
    assert done.accepted


def test_a_connection_cut_at_ten_random_moments(
    server: Server, tmp_path: Path, place: Path
) -> None:
    old = gguf_bundle(tmp_path, GOOD)
    sent: list[int] = []
    with wire(server.port, [], sent) as port:
        server.trust(port)
        send(old, server, tmp_path, port=port, questions=4)
    whole = len((tmp_path / "bin" / "asked").read_text())
    moments = sorted(random.Random(21).sample(sent, CUTS))
    cut = 0
    for number, moment in enumerate(moments):
        new = gguf_bundle(tmp_path, {**GOOD, "more": number})
        (tmp_path / "bin" / "asked").write_text("")
        with wire(server.port, [moment, 0, 0]) as port, suppress(EdgewrightError):
            server.trust(port)
            cut += 1
            send(new, server, tmp_path, port=port, questions=4)
            cut -= 1
        wait_until_none(place)
        assert whole_version(place) in {old.id, new.id}
        with wire(server.port, [moment]) as port:
            server.trust(port)
            (tmp_path / "bin" / "asked").write_text("")
            assert send(new, server, tmp_path, port=port, questions=4).accepted
        # What was answered before the cut is not asked again, but for timing and the open question.
        assert len((tmp_path / "bin" / "asked").read_text()) <= whole + 6 + 8
        wait_until_none(place)
        assert whole_version(place) == new.id
        assert {file.name for file in place.iterdir()} == {
            ".lock",
            "versions",
            "current",
            "previous",
        }
        old = new
    assert cut >= CUTS - 2


def test_a_host_that_is_killed_leaves_no_server(
    server: Server, tmp_path: Path, place: Path
) -> None:
    bundle = gguf_bundle(tmp_path, GOOD)
    child = os.fork()
    if child == 0:
        with suppress(BaseException):
            send(bundle, server, tmp_path)
        os._exit(0)
    started = tmp_path / "bin" / "started"
    while not started.exists():
        time.sleep(0.05)
    os.kill(child, 9)
    os.waitpid(child, 0)
    wait_until_none(place)
