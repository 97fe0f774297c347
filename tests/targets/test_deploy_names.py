"""Names and links that deploying meets: odd, hostile, or leading out of the artifact."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from small_bundle import address_of, send, small_bundle, whole_version
from ssh_servers import Server

from edgewright.errors import Refused, UsageError
from edgewright.targets.address import Address
from edgewright.targets.artifact_files import artifact_files, artifact_name
from edgewright.targets.bundle import SCRIPTS
from edgewright.targets.host_keys import add_host_key
from edgewright.targets.remote import connected
from edgewright.targets.remote_versions import RemoteVersions

pytest_plugins = ["deploy_fixtures"]

ODD_NAMES = [
    "with space",
    "quote ' and \" and `id`",
    "$(touch owned) ${HOME} $x",
    "-rf",
    "; touch owned & | > owned",
    "*?[a]!{b,c}",
    "modèle-漢字-🙂",
    "back\\slash",
]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_name_is_never_read_as_a_command(server: Server, tmp_path: Path, name: str) -> None:
    bundle = small_bundle(b"content", name)
    send(bundle, server, tmp_path, remote=str(tmp_path / name))
    assert whole_version(tmp_path / name / name) == bundle.id
    assert not list(tmp_path.rglob("owned"))


def test_a_relative_directory_with_a_dash(server: Server, tmp_path: Path) -> None:
    home = tmp_path / "ssh"  # where the server starts commands
    bundle = small_bundle(b"content")
    remote = f"-n/{tmp_path.name}"
    try:
        send(bundle, server, tmp_path, remote=remote)
        places = [home / remote, Path.home() / remote]
        assert [whole_version(place / "small") for place in places if place.exists()] == [bundle.id]
    finally:
        shutil.rmtree(Path.home() / "-n", ignore_errors=True)


@pytest.mark.parametrize("folder", ["a:b", "~/x", "a\nb", "a\0b", "\x1b[2J", "a\u202eb"])
def test_a_directory_that_a_program_would_misread_is_refused(folder: str) -> None:
    with pytest.raises(UsageError, match="remote-dir"):
        RemoteVersions(folder, "name")


@pytest.mark.parametrize(
    "text",
    [
        "-oProxyCommand=touch owned@host",
        "user@-oProxyCommand=touch owned",
        "user@-oProxyCommand=x",
        "-x@host",
        "user@host;touch owned",
        "user@$(touch owned)",
        "us er@host",
        "user@ho\nst",
        "user@host name",
        "user@höst",
        "user@",
        "@host",
        "host",
        "user@[::1",
        "user@a/b",
        "user@\x1b[2J",
    ],
)
def test_an_address_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--host"):
        Address.parse(text)


@pytest.mark.parametrize(
    ("text", "user", "host"),
    [
        ("ubuntu@192.168.55.1", "ubuntu", "192.168.55.1"),
        ("a.b-c_d@jetson-1.local", "a.b-c_d", "jetson-1.local"),
        ("root@::1", "root", "::1"),
        ("root@[fe80::1%eth0]", "root", "fe80::1%eth0"),
        ("me@example.org@host", "me@example.org", "host"),
    ],
)
def test_an_address_is_read(text: str, user: str, host: str) -> None:
    found = Address.parse(text)
    assert (found.user, found.host) == (user, host)


def test_a_password_in_the_address_is_refused_and_not_repeated() -> None:
    for text in ("user:hunter22@host", "ssh://user:hunter22@host", "ssh://user@host"):
        with pytest.raises(UsageError, match="password") as caught:
            Address.parse(text)
        assert "hunter22" not in f"{caught.value} {caught.value.hint}"


def test_the_command_that_a_message_names_can_be_typed() -> None:
    words = shlex.split(Address.parse("a\\b@host", port=2222).copy_id_command)
    assert words == ["ssh-copy-id", "-p", "2222", "a\\b@host"]


def small_artifact(folder: Path) -> Path:
    """A directory with two files, one of them in a sub-directory."""
    (folder / "sub").mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"model")
    (folder / "sub" / "data").write_bytes(b"data")
    return folder


def test_links_inside_an_artifact_are_files_and_no_link_leads_out(tmp_path: Path) -> None:
    artifact = small_artifact(tmp_path / "artifact")
    (artifact / "alias").symlink_to("sub/data")
    found = artifact_files(artifact)
    assert list(found) == ["alias", "model.onnx", "sub/data"]
    assert found["alias"].read_bytes() == b"data"
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "artifact-beside").mkdir()
    (tmp_path / "artifact-beside" / "file").write_bytes(b"")
    outside = ["../secret", str(tmp_path / "secret"), "sub/../../secret", "../artifact-beside/file"]
    others = ["..", ".", "sub", "nowhere", "loop", "/etc", "/dev/zero", "/proc/self/environ"]
    for target in [*outside, *others]:
        (artifact / "loop").symlink_to(target)
        with pytest.raises(UsageError, match=r"the link loop points to .*(outside|no file)"):
            artifact_files(artifact)
        (artifact / "loop").unlink()
    (artifact / "sub" / "deep").symlink_to("../../secret")
    with pytest.raises(UsageError, match=r"sub/deep points to \.\./\.\./secret"):
        artifact_files(artifact)


def test_a_link_that_leads_out_stops_a_bundle_before_anything_is_read(
    cli: Any, artifact: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(artifact, copy)
    (copy / "notes.txt").symlink_to("/etc/passwd")
    code, _, err = cli("deploy", copy, "--target", "cpu", "--out", tmp_path / "bundle")
    assert (code, "notes.txt points to /etc/passwd" in err, "cp -rL" in err) == (2, True, True), err
    assert not (tmp_path / "bundle").exists()


def test_what_is_no_file_and_names_that_no_device_takes(tmp_path: Path) -> None:
    artifact = small_artifact(tmp_path / "artifact")
    os.mkfifo(artifact / "pipe")
    with pytest.raises(UsageError, match="neither a file nor a directory"):
        artifact_files(artifact)
    (artifact / "pipe").unlink()
    for name in (b"line\nbreak", b"esc\x1b[2J", b"not-utf8-\xff", b"\xe2\x80\xaebidi", b"n" * 201):
        odd = Path(os.fsdecode(os.fsencode(artifact) + b"/" + name))
        odd.write_bytes(b"")
        with pytest.raises(UsageError, match="cannot be copied"):
            artifact_files(artifact)
        odd.unlink()


def test_the_name_of_an_artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = small_artifact(tmp_path / "int4 (best)")
    (tmp_path / "link").symlink_to(artifact)
    monkeypatch.chdir(artifact)
    for path in (artifact, tmp_path / "link", Path(), Path("sub/..")):
        assert artifact_name(path) == "int4 (best)"
    for name in (".hidden", "a:b", "a\nb", "n" * 201):
        (tmp_path / name).mkdir()
        with pytest.raises(UsageError, match="cannot be deployed under the name"):
            artifact_name(tmp_path / name)
    with pytest.raises(UsageError, match="cannot be deployed under the name"):
        artifact_name(Path("/"))


@pytest.mark.parametrize("folder", ["plain", "-n", "a b'c\"", "$(touch owned)"])
def test_run_sh_runs_in_any_directory_and_imports_nothing_from_elsewhere(
    tmp_path: Path, folder: str
) -> None:
    place = tmp_path / folder
    device = place / "lib" / "edgewright" / "targets" / "device"
    device.mkdir(parents=True)
    (device / "run.py").write_text("import sys, json\nprint('ran', *sys.argv[1:])\n")
    (place / "run.sh").write_text(SCRIPTS["run.sh"])
    (tmp_path / "json.py").write_text("raise SystemExit('imported from where it was called')\n")
    done = subprocess.run(
        ["sh", f"./{folder}/run.sh", "a b", "$x"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "CDPATH": "/", "PYTHON": "python3"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "ran a b $x\n", done.stderr


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{name} {other}\n", "has changed"),
        ("@revoked {name} {key}\n", "revoked"),
        ("@revoked {name} {key}\n{name} {key}\n", "revoked"),
        ("", "unknown host key ssh-ed25519 SHA256:"),
        ("elsewhere {key}\n", "unknown host key"),
    ],
)
@pytest.mark.parametrize("accept", [False, True])
def test_no_key_but_the_known_one_is_accepted(
    server: Server, tmp_path: Path, line: str, reason: str, accept: bool
) -> None:
    other = " ".join((tmp_path / "ssh" / "user.pub").read_text().split()[:2])
    name = f"[127.0.0.1]:{server.port}"
    server.known_hosts.write_text(line.format(name=name, key=server.host_key, other=other))
    before = server.known_hosts.read_text()
    address = address_of(server)
    if accept and "unknown" in reason:
        return  # the only keys that --accept-new-host-key may store
    given = Address(
        address.user, address.host, address.port, address.identity, address.known_hosts, accept
    )
    with pytest.raises(Refused, match=reason):
        connect(given)
    assert server.known_hosts.read_text() == before


def test_without_the_file_that_was_given_no_other_file_is_read(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".ssh").mkdir()
    server.known_hosts.rename(tmp_path / ".ssh" / "known_hosts")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(Refused, match="unknown host key"):
        connect(address_of(server))
    assert not server.known_hosts.exists()


def connect(address: Address) -> None:
    import asyncio

    async def visit() -> None:
        async with connected(address) as device:
            await device.checked("true")

    asyncio.run(visit())


def test_a_new_key_goes_on_a_line_of_its_own_and_is_shown(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import asyncio

    server.known_hosts.write_text("elsewhere ssh-ed25519 AAAA")
    asyncio.run(add_host_key(asyncssh, address_of(server)))
    lines = server.known_hosts.read_text().splitlines()
    assert lines == [
        "elsewhere ssh-ed25519 AAAA",
        f"[127.0.0.1]:{server.port} {server.host_key}",
    ]
    assert "SHA256:" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("kind", ["directory", "binary"])
def test_known_hosts_that_cannot_be_read(server: Server, tmp_path: Path, kind: str) -> None:
    known = tmp_path / "known"
    known.mkdir() if kind == "directory" else known.write_bytes(b"\xff\xfe\0 broken\n")
    address = address_of(server)
    with pytest.raises(UsageError, match="known host keys"):
        connect(Address(address.user, address.host, address.port, address.identity, known))
