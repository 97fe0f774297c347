"""Deploying over SSH: copied, checked, measured, recorded; cut, resumed, rolled back; and every way in which a device says no.

Against asyncssh's server in this process, and with `-m sshd` (make deploy-test) the same against the real sshd.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssh_servers import Server, asyncssh_server, real_sshd, wire  # isort: skip

from edgewright.benchmarks.metrics import why_unlike
from edgewright.export.onnx.export import export_onnx
from edgewright.targets import load_target
from edgewright.targets.bundle import make_bundle, write_bundle
from edgewright.targets.failures import FAILURES, explain
from edgewright.targets.options import BundleOptions
from edgewright.targets.preflight import jetpack_of

SERVERS = {"asyncssh": asyncssh_server, "sshd": real_sshd}
Cli = Callable[..., tuple[int, str, str]]
NVMAP = "NvMapMemAllocInternalTagged: 1075072515 error 12"
SHORT = ("--prompt", 8, "--context", 32)


@pytest.fixture(scope="module")
def artifact(make_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float artifact of one layer, 1.7 MB."""
    out = tmp_path_factory.mktemp("run") / "tiny"
    export_onnx(make_model("llama", num_hidden_layers=1, intermediate_size=1024), out, "fp32")
    return out


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that has numpy and onnxruntime, and neither torch nor edgewright."""
    folder = tmp_path_factory.mktemp("python")
    site = (
        Path(shutil.__file__).parent / "site-packages"
        if sys.prefix == sys.base_prefix
        else next(Path(sys.prefix).glob("lib/python*/site-packages"))
    )
    for package in site.iterdir():
        if package.name.startswith(("numpy", "onnxruntime")):
            (folder / package.name).symlink_to(package)
    program = folder / "python3"
    program.write_text(
        f'#!/bin/sh\nPYTHONPATH="${{PYTHONPATH:+$PYTHONPATH:}}{folder}" exec {sys.executable} -S "$@"\n'
    )
    program.chmod(0o755)
    return program


@pytest.fixture(params=["asyncssh", pytest.param("sshd", marks=pytest.mark.sshd)])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """A trusted server whose PATH has `tmp_path/bin` in front."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "ssh").mkdir()
    with SERVERS[request.param](
        tmp_path / "ssh", f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    ) as running:
        running.trust()
        yield running


@pytest.fixture
def deployed(
    cli: Cli, server: Server, python: Path, tmp_path: Path
) -> Callable[..., tuple[int, str, str]]:
    """Calls `edgewright deploy` on that server."""

    def call(
        artifact: Path, *more: object, target: str = "cpu", port: int | None = None
    ) -> tuple[int, str, str]:
        return cli(
            "deploy",
            artifact,
            "--target",
            target,
            "--host",
            server.host,
            "--port",
            port or server.port,
            "--identity",
            server.identity,
            "--known-hosts",
            server.known_hosts,
            "--remote-dir",
            tmp_path / "device",
            "--python",
            python,
            "--threads",
            1,
            "--ledger",
            tmp_path / "ledger",
            "--json",
            *more,
        )

    return call


def program(folder: Path, name: str, body: str) -> None:
    """A program on the device's PATH."""
    file = folder / "bin" / name
    file.write_text(body if body.startswith("#!") else f"#!/bin/sh\n{body}\n")
    file.chmod(0o755)


def wait_for_writers(folder: Path) -> None:
    """Wait until the programs of broken connections have ended: they go on with what had arrived."""

    def of(process: Path) -> bytes:
        with suppress(OSError):  # it ended meanwhile
            return (process / "cmdline").read_bytes()
        return b""

    for _ in range(600):
        if not any(os.fsencode(folder) in of(process) for process in Path("/proc").glob("[0-9]*")):
            return
        time.sleep(0.1)
    raise AssertionError(f"something still writes below {folder}")


def jetson(folder: Path, l4t: str = "36.4.3", tensorrt: str = "10.3.0.30-1+cuda12.5") -> None:
    """What makes a machine look like a Jetson: the packages that dpkg knows, a power mode, and tegrastats."""
    program(
        folder,
        "dpkg-query",
        f'case "$*" in *nvidia-l4t-core*) echo {l4t}-20250107174145;; *libnvinfer-bin*) echo {tensorrt};; *) exit 1;; esac',
    )
    program(folder, "nvpmodel", "echo NV Power Mode: MAXN_SUPER; echo 2")
    program(
        folder,
        "tegrastats",
        "while :; do echo '03-14-2026 15:09:26 RAM 2000/7620MB (lfb 12x4MB) SWAP 0/3810MB (cached 0MB) EMC_FREQ 61%@3199 "
        "GR3D_FREQ 99%@[1020] tj@58.3C VDD_IN 16321mW/11204mW VDD_SOC 3120mW/2988mW'; sleep 0.05; done",
    )


TRTEXEC = f"""#!{sys.executable}
import json, sys
options = dict(a[2:].split("=", 1) if "=" in a else (a[2:], "") for a in sys.argv[1:])
json.dump(sys.argv[1:], open(sys.argv[0] + "." + ("build" if "onnx" in options else "run" + options["useProfile"]), "w"))
print("&&&& RUNNING TensorRT.trtexec [TensorRT v100300] # trtexec")
if "onnx" in options:
    open(options["saveEngine"], "wb").write(b"engine")
else:
    ms = 4.0 if options["useProfile"] == "0" else 2.0
    fields = ["startComputeMs", "h2dMs", "computeMs", "d2hMs", "latencyMs"]
    json.dump([dict(zip(fields, [9, 0, ms, 0, ms])) for _ in range(5)], open(options["exportTimes"], "w"))
    layer = {{"name": "a", "timeMs": 5, "averageMs": 1, "medianMs": 1, "percentage": 100}}
    json.dump([{{"count": 5}}, layer], open(options["exportProfile"], "w"))
    print(f"[01/01/2026-00:00:00] [I] Throughput: {{1000 / ms}} qps")
print("&&&& PASSED TensorRT.trtexec [TensorRT v100300] # trtexec")
"""


# --- the way it should go ---


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
        wait_for_writers(place)
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


# --- hosts that are not to be trusted, users that are not known ---


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
    assert (code, "no key of yours is accepted" in err, "ssh-copy-id" in err) == (2, True, True), (
        err
    )


# --- devices that cannot ---


def test_a_machine_that_is_no_jetson_is_refused(
    deployed: Any, artifact: Path, tmp_path: Path
) -> None:
    code, _, err = deployed(artifact, *SHORT, target="jetson-orin-nano-8gb")
    assert (code, "is no Jetson" in err, "--target cpu" in err) == (3, True, True), err
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


# --- without a device ---


def test_a_bundle_runs_by_itself(artifact: Path, python: Path, tmp_path: Path) -> None:
    from edgewright.export.onnx.runtime import OnnxDecoder

    def run(*words: str) -> Any:
        done = subprocess.run(
            [str(bundle / "run.sh"), *words],
            capture_output=True,
            text=True,
            env={"PATH": os.environ["PATH"], "PYTHON": str(python)},
            check=False,
        )
        *streamed, last = (done.stdout or done.stderr).splitlines()
        told = json.loads(last)
        assert [json.loads(line)["token"] for line in streamed] == (
            told["tokens"] if streamed else []
        )
        assert bool(streamed) == ("--stream" in words)
        return (done.returncode, told)

    bundle = write_bundle(make_bundle(artifact, load_target("cpu")), tmp_path / "bundle")
    code, verified = run("verify")
    assert (code, verified["files"] > 10) == (0, True)
    code, told = run("generate", "--ids", "5,6,7,8", "--new-tokens", "6")
    ids = np.array([[5, 6, 7, 8]])
    assert (code, told["tokens"]) == (
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
    (bundle / "bundle.json").write_text(json.dumps(manifest))
    code, told = run("check")
    assert (code, "token 4" in told["error"]) == (4, True)
    (bundle / "model" / "model.onnx").write_bytes(b"")
    code, told = run("verify")
    assert (code, "model/model.onnx" in told["error"]) == (1, True)
    code, told = run("build")
    assert (code, "trtexec is not on this device" in told["error"]) == (1, True)


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
    ("host", "more"), [("jetson", ()), ("@jetson", ()), ("", ()), ("a@b", ("--out", "x"))]
)
def test_wrong_usage(cli: Cli, artifact: Path, host: str, more: Any) -> None:
    assert cli("deploy", artifact, "--target", "cpu", "--host", host, *more)[0] == 2


@pytest.mark.parametrize(
    ("l4t", "jetpack"),
    [
        ("35.4.1", "5.1"),
        ("36.3.0", "6.0"),
        ("36.4.3", "6.2"),
        ("36.4.7", "6.2"),
        ("36.4.0", "6.1"),
        ("36.5.2", "6.2.2"),
        ("39.2.0", "7.2"),
        ("38.2.0", None),
    ],
)
def test_the_jetpack_of_an_l4t_release(l4t: str, jetpack: str | None) -> None:
    found = jetpack_of(l4t, load_target("jetson-orin-nano-8gb").platform.jetpacks)
    assert (found.name if found else None) == jetpack


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (
            NVMAP
            + "\n[E] Error[10]: Could not find any implementation for node {ForeignNode[lm_head]}",
            "nvmap",
        ),
        (
            "Error[10]: Could not find any implementation for node {ForeignNode[x]}",
            "no-implementation",
        ),
        ("cat: write error: No space left on device", "disk-full"),
        ("sh: 1: trtexec: not found", "no-trtexec"),
        ("bash: trtexec: command not found", "no-trtexec"),
        ("terminate called after throwing an instance of 'std::bad_alloc'", "out-of-memory"),
        ("Killed", "out-of-memory"),
        (
            "Serialization assertion plan->header.magicTag == rt::kPLAN_MAGIC_TAG failed.",
            "other-engine",
        ),
        ("ModuleNotFoundError: No module named 'onnxruntime'", "no-package"),
        ("Segmentation fault", None),
    ],
)
def test_known_failures(line: str, name: str | None) -> None:
    found = explain(line)
    assert (found.name if found else None) == name


def test_the_docs_have_every_failure() -> None:
    text = " ".join((Path(__file__).parents[2] / "docs" / "deployment.md").read_text().split())
    assert not [failure.name for failure in FAILURES if failure.message not in text]
