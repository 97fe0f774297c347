"""A bundle of three small files whose run.sh is a shell script, and the device's state after it.

A deployment of it takes the way of every deployment, and needs neither onnxruntime nor Python on
the device, so tests can repeat it many times.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from contextlib import suppress
from pathlib import Path

from ssh_servers import Server

from edgewright.targets import load_target
from edgewright.targets.address import Address
from edgewright.targets.bundle import Bundle
from edgewright.targets.deploy import Deployment, deploy
from edgewright.targets.device.manifest import identity
from edgewright.targets.options import DeployOptions

PROBE = {
    "python": "3.11.2",
    "packages": {"numpy": "2", "onnxruntime": "1", "onnxruntime-gpu": None},
    "disk_free_bytes": 1 << 40,
    "memory": {},
    "system": "test",
}
ROUND = {"first": 0.002, "tokens": [0.001, 0.001, 0.001]}
BENCH = {"prompt": 4, "load_s": 0.1, "peaks": {"total": 1}, "tegrastats": "", "trtexec": {}}
SCRIPT = """#!/bin/sh
cd -- "$(dirname -- "$0")"
for verb; do :; done
case $verb in
    verify) sha256sum --status -c sums && echo '{}' && exit
            echo '{"error": "damaged", "hint": ""}' >&2; exit 1 ;;
    check) cat check.json ;;
    bench) cat bench.json ;;
esac
"""


def small_bundle(content: bytes, name: str = "small", size: int = 60_000) -> Bundle:
    """A bundle whose id and model follow from the content."""
    model = (content * (size // len(content) + 1))[:size]
    digest = hashlib.sha256(model).hexdigest()
    files: dict[str, bytes | Path] = {
        "run.sh": SCRIPT.encode(),
        "model/model.onnx": model,
        "check.json": b'{"check/tokens": 1}',
        "bench.json": json.dumps(BENCH | {"rounds": [ROUND] * 2}).encode(),
        "sums": f"{digest}  model/model.onnx\n".encode(),
    }
    sums = {
        path: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for path, data in files.items()
        if isinstance(data, bytes)
    }
    manifest = {"precision": "int8-dynamic", "engine": {}, "files": sums}
    manifest["id"] = identity(manifest)
    files["bundle.json"] = json.dumps(manifest).encode()
    return Bundle(name, manifest["id"], files, manifest)


def send(
    bundle: Bundle, server: Server, root: Path, *, port: int | None = None, remote: str = ""
) -> Deployment:
    """Deploy a small bundle to `root/device` (or to `remote`) on the server."""
    model = root / "described"
    if not model.exists():
        model.mkdir()
        config = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4}
        config |= {"num_hidden_layers": 1, "intermediate_size": 128, "vocab_size": 100}
        (model / "config.json").write_text(json.dumps(config))
        (root / "python").write_text(f"#!/bin/sh\ncat >/dev/null\necho '{json.dumps(PROBE)}'\n")
        (root / "python").chmod(0o755)
    place = remote or str(root / "device")
    options = DeployOptions(remote_dir=place, python=str(root / "python"))
    return deploy(bundle, model, load_target("cpu"), address_of(server, port), options)


def address_of(server: Server, port: int | None = None) -> Address:
    """The address of a server, or of a relay to it."""
    return Address(
        server.user, "127.0.0.1", port or server.port, server.identity, server.known_hosts
    )


def whole_version(place: Path, link: str = "current") -> str:
    """The id of the version that a link points to, after every file of it was compared."""
    folder = place / link
    assert os.readlink(folder).startswith("versions/")
    manifest = json.loads((folder / "bundle.json").read_text())
    for path, entry in manifest["files"].items():
        assert hashlib.sha256((folder / path).read_bytes()).hexdigest() == entry["sha256"], path
    assert identity(manifest) == manifest["id"] == folder.resolve().name
    return manifest["id"]


def wait_for_programs(folder: Path) -> None:
    """Wait until no program of a broken connection works below a folder any more."""

    def of(process: Path) -> bytes:
        with suppress(OSError):  # it ended meanwhile
            return (process / "cmdline").read_bytes()
        return b""

    for _ in range(600):
        if not any(os.fsencode(folder) in of(process) for process in Path("/proc").glob("[0-9]*")):
            return
        time.sleep(0.1)
    raise AssertionError(f"something still writes below {folder}")
