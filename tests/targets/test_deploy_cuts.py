"""Deployments that are cut: the device has the old or the new version, and nothing that grows."""

from __future__ import annotations

import os
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest
from fake_jetson import program
from small_bundle import address_of, send, small_bundle, wait_for_programs, whole_version
from ssh_servers import Server, wire

from edgewright.errors import EdgewrightError, UsageError
from edgewright.targets import deploy as deploy_module
from edgewright.targets.bundle import Bundle
from edgewright.targets.deploy import rollback
from edgewright.targets.options import DeployOptions

pytest_plugins = ["deploy_fixtures"]

CUTS = 20


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deploy_module, "PAUSE_SECONDS", 0.0)


def sent_by(bundle: Bundle, server: Server, root: Path) -> list[int]:
    """How many bytes had been sent to the device after each block of a whole deployment."""
    sent: list[int] = []
    with wire(server.port, [], sent) as port:
        server.trust(port)
        send(bundle, server, root, port=port)
    return sent


def check_after_success(place: Path, new: str, old: str) -> None:
    """The device has the new version and the one before it, and nothing else."""
    assert whole_version(place) == new
    assert {file.name for file in place.iterdir()} == {".lock", "versions", "current", "previous"}
    assert {folder.name for folder in (place / "versions").iterdir()} == {new, old}
    assert whole_version(place, "previous") == old


def test_a_connection_cut_at_any_of_twenty_moments(server: Server, tmp_path: Path) -> None:
    place = tmp_path / "device" / "small"
    old = small_bundle(b"first")
    sent = sent_by(old, server, tmp_path)
    moments = [sent[len(sent) * cut // CUTS] for cut in range(CUTS)]
    cut = 0
    for number, moment in enumerate(moments):
        new = small_bundle(f"version {number}".encode())
        with wire(server.port, [moment, 0, 0]) as port, suppress(EdgewrightError):
            server.trust(port)
            cut += 1
            send(new, server, tmp_path, port=port)
            cut -= 1
        wait_for_programs(place)
        assert whole_version(place) in {old.id, new.id}
        send(new, server, tmp_path)
        check_after_success(place, new.id, old.id)
        old = new
    assert cut >= CUTS - 2, "the last blocks may arrive before the connection is cut"


@pytest.mark.parametrize("server", [pytest.param("sshd", marks=pytest.mark.sshd)], indirect=True)
def test_a_process_killed_at_any_of_twenty_moments(server: Server, tmp_path: Path) -> None:
    place = tmp_path / "device" / "small"
    old = small_bundle(b"first")
    send(old, server, tmp_path)
    begin = time.monotonic()
    send(small_bundle(b"second"), server, tmp_path)
    seconds = time.monotonic() - begin
    old = small_bundle(b"second")
    for cut in range(CUTS):
        new = small_bundle(f"version {cut}".encode())
        child = os.fork()
        if child == 0:
            with suppress(BaseException):
                send(new, server, tmp_path)
            os._exit(0)
        time.sleep(seconds * cut / CUTS)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        wait_for_programs(place)
        assert whole_version(place) in {old.id, new.id}
        send(new, server, tmp_path)
        check_after_success(place, new.id, old.id)
        old = new


def killer(root: Path, number: int) -> None:
    """Programs that kill the script that calls them, when they are called the n-th time."""
    (root / "calls").write_text("")
    for name in ("mv", "ln", "rm", "sync", "mkdir", "rmdir", "mktemp", "readlink"):
        real = shutil.which(name, path=os.defpath)
        program(
            root,
            name,
            f'echo >> "{root}/calls"\n'
            f'if [ "$(wc -l < "{root}/calls")" -eq {number} ]; then kill -9 $PPID; exit 137; fi\n'
            f'exec {real} "$@"',
        )


def test_a_device_that_stops_at_any_command(server: Server, tmp_path: Path) -> None:
    place = tmp_path / "device" / "small"
    old = small_bundle(b"first")
    send(old, server, tmp_path)
    stopped = 0
    for number in range(1, 200):
        new = small_bundle(f"version {number}".encode())
        killer(tmp_path, number)
        try:
            send(new, server, tmp_path)
        except EdgewrightError:
            stopped += 1
        calls = len((tmp_path / "calls").read_text())
        killer(tmp_path, 0)
        assert whole_version(place) in {old.id, new.id}
        send(new, server, tmp_path)
        check_after_success(place, new.id, old.id)
        old = new
        if calls < number:
            break
    assert calls < number
    assert stopped >= CUTS


def test_versions_do_not_pile_up(server: Server, tmp_path: Path) -> None:
    place = tmp_path / "device" / "small"
    ids = []
    for number in range(4):
        bundle = small_bundle(f"version {number}".encode())
        ids.append(bundle.id)
        send(bundle, server, tmp_path)
        (place / "incoming" / "0123456789abcdef").mkdir(parents=True)
        (place / "versions" / "not ours").mkdir(exist_ok=True)
    assert sorted(folder.name for folder in (place / "versions").iterdir()) == sorted(
        [*ids[-2:], "not ours"]
    )
    send(small_bundle(b"last"), server, tmp_path)
    assert not (place / "incoming").exists()


@pytest.mark.parametrize("damaged", ["model/model.onnx", "bundle.json", "run.sh"])
def test_a_damaged_version_is_copied_again(server: Server, tmp_path: Path, damaged: str) -> None:
    place = tmp_path / "device" / "small"
    bundle = small_bundle(b"first")
    send(bundle, server, tmp_path)
    file = place / "current" / damaged
    file.write_bytes(b"#!/bin/sh\nexit 9\n" if damaged == "run.sh" else b"")
    if damaged == "bundle.json":
        file.unlink()
    send(bundle, server, tmp_path)
    assert whole_version(place) == bundle.id


def test_a_damaged_unfinished_copy_is_made_again(server: Server, tmp_path: Path) -> None:
    bundle = small_bundle(b"first")
    place = tmp_path / "device" / "small"
    file = place / "incoming" / bundle.id / "model" / "model.onnx"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"x" * bundle.manifest["files"]["model/model.onnx"]["size"])
    send(bundle, server, tmp_path)
    assert whole_version(place) == bundle.id


def test_a_version_that_fails_its_check_is_never_current(server: Server, tmp_path: Path) -> None:
    place = tmp_path / "device" / "small"
    good = small_bundle(b"good")
    send(good, server, tmp_path)
    bad = small_bundle(b"bad")
    program(tmp_path, "cat", 'case "$1" in check.json) exit 4;; esac; exec /bin/cat "$@"')
    with pytest.raises(EdgewrightError, match="check"):
        send(bad, server, tmp_path)
    assert whole_version(place) == good.id
    assert not (place / "previous").exists()


def test_a_rollback_whose_answer_is_lost_is_not_undone(server: Server, tmp_path: Path) -> None:
    place = tmp_path / "device" / "small"
    old = small_bundle(b"old")
    new = small_bundle(b"new")
    for bundle in (old, new):
        send(bundle, server, tmp_path)
    # The first connection breaks after the swap was done: the second must not swap again.
    options = DeployOptions(remote_dir=str(tmp_path / "device"))
    connected = deploy_module.connected
    attempts: list[object] = []

    def broken(address: object) -> object:
        attempts.append(address)
        return connected(address)

    original = deploy_module.RemoteVersions.swap

    async def swap(self: object, *words: object) -> None:
        await original(self, *words)
        if len(attempts) == 1:
            raise deploy_module.ConnectionDropped("cut")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deploy_module, "connected", broken)
        patch.setattr(deploy_module.RemoteVersions, "swap", swap)
        links = rollback("small", address_of(server), options)
    assert len(attempts) == 2
    assert links == {"current": old.id, "previous": new.id}
    assert (whole_version(place), whole_version(place, "previous")) == (old.id, new.id)


def test_a_rollback_to_a_version_that_is_gone_is_refused(server: Server, tmp_path: Path) -> None:
    place = tmp_path / "device" / "small"
    old = small_bundle(b"old")
    new = small_bundle(b"new")
    for bundle in (old, new):
        send(bundle, server, tmp_path)
    options = DeployOptions(remote_dir=str(tmp_path / "device"))
    for target in (f"versions/{'0' * 16}", "../../elsewhere", "/etc", new.id):
        (place / "previous").unlink()
        (place / "previous").symlink_to(target)
        with pytest.raises(UsageError, match="no previous version"):
            rollback("small", address_of(server), options)
        assert whole_version(place) == new.id
