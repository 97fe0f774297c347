"""Deployments that are refused or fail: host keys, wrong devices, missing tools, full disks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from fake_jetson import NVMAP, SHORT, TRTEXEC, jetson, program
from ssh_servers import Server

from edgewright.targets import load_target
from edgewright.targets.bundle import make_bundle

pytest_plugins = ["deploy_fixtures"]


def test_an_unknown_host_is_refused_until_its_key_is_accepted(
    deployed: Any, server: Server, artifact: Path
) -> None:
    server.known_hosts.write_text("")
    code, _, err = deployed(artifact)
    assert code == 3
    assert "unknown host key ssh-ed25519 SHA256:" in err
    assert "--accept-new-host-key" in err
    assert server.known_hosts.read_text() == ""
    assert deployed(artifact, "--accept-new-host-key")[0] == 0
    assert server.host_key in server.known_hosts.read_text()
    assert deployed(artifact)[0] == 0


@pytest.mark.parametrize("more", [(), ("--accept-new-host-key",)])
def test_a_changed_host_key_is_refused_always(
    deployed: Any, server: Server, artifact: Path, tmp_path: Path, more: Any
) -> None:
    server.known_hosts.write_text("")
    other = (tmp_path / "ssh" / "user.pub").read_text().split()
    server.known_hosts.write_text(f"[127.0.0.1]:{server.port} {other[0]} {other[1]}\n")
    before = server.known_hosts.read_text()
    code, _, err = deployed(artifact, *more)
    assert (code, "has changed" in err) == (3, True), err
    assert server.known_hosts.read_text() == before
    assert not (tmp_path / "device").exists()


def test_another_key_is_not_let_in(
    deployed: Any, server: Server, artifact: Path, tmp_path: Path
) -> None:
    server.identity = tmp_path / "ssh" / "host"
    code, _, err = deployed(artifact)
    assert (code, "accepts none of your SSH keys" in err, "ssh-copy-id" in err) == (
        2,
        True,
        True,
    ), err


def test_a_machine_that_is_no_jetson_is_refused(
    deployed: Any, artifact: Path, tmp_path: Path
) -> None:
    code, _, err = deployed(artifact, *SHORT, target="jetson-orin-nano-8gb")
    assert (code, "is not a Jetson" in err, "--target cpu" in err) == (3, True, True), err
    assert not (tmp_path / "device").exists()


def test_a_missing_trtexec_is_said_before_anything_is_copied(
    deployed: Any, artifact: Path, tmp_path: Path
) -> None:
    jetson(tmp_path)
    code, _, err = deployed(artifact, *SHORT, target="jetson-orin-nano-8gb")
    assert (code, "trtexec is not on the device" in err, "nvidia-jetpack" in err) == (
        3,
        True,
        True,
    ), err
    assert not (tmp_path / "device").exists()
    assert deployed(artifact, *SHORT, "--no-engine", target="jetson-orin-nano-8gb")[0] == 0


def test_a_wrong_jetpack_is_refused(deployed: Any, artifact: Path, tmp_path: Path) -> None:
    jetson(tmp_path, "35.4.1", "8.5.2.2-1+cuda11.4")
    program(tmp_path, "trtexec", TRTEXEC)
    code, _, err = deployed(artifact, *SHORT, target="jetson-orin-nano-8gb")
    assert (code, "JetPack 5.1 (L4T 35.4.1)" in err, "half precision" in " ".join(err.split())) == (
        3,
        True,
        True,
    ), err


def test_an_nvmap_failure_is_explained(deployed: Any, artifact: Path, tmp_path: Path) -> None:
    jetson(tmp_path)
    program(
        tmp_path,
        "trtexec",
        f"echo '{NVMAP}'; echo '[01/01/2026-00:00:00] [E] Engine set up failed'; exit 1",
    )
    code, _, err = deployed(artifact, *SHORT, target="jetson-orin-nano-8gb")
    assert code == 1
    assert "NvMap error 12" in err
    assert "reboot" in err
    assert not (tmp_path / "device" / "tiny" / "current" / "engine" / "model.engine").exists()


def test_a_disk_that_fills_up_is_explained(deployed: Any, artifact: Path, tmp_path: Path) -> None:
    bundle = make_bundle(artifact, load_target("cpu"))
    part = tmp_path / "device" / "tiny" / "incoming" / bundle.id / "model" / "model.onnx.data.part"
    part.parent.mkdir(parents=True)
    part.symlink_to("/dev/full")
    code, _, err = deployed(artifact)
    assert (code, "disk is full" in err, "--remote-dir" in err) == (1, True, True), err
    assert not (tmp_path / "device" / "tiny" / "current").exists()
    part.unlink()
    assert deployed(artifact)[0] == 0


def test_an_interpreter_without_onnxruntime_is_refused(
    deployed: Any, artifact: Path, tmp_path: Path
) -> None:
    program(tmp_path, "bare", f'#!/bin/sh\nexec {sys.executable} -S "$@"')
    code, _, err = deployed(artifact, "--python", "bare")
    assert (code, "no numpy or no onnxruntime" in err, "pip install" in err) == (3, True, True), err
