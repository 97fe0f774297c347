"""Several processes (torchrun): the losses of one, whole or sharded, also after a kill."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgewright.checkpoints.hashing import content_hash
from edgewright.checkpoints.tensors import read_state

MakeModel = Callable[..., Path]
Cli = Callable[..., tuple[int, str, str]]
FSDP2 = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
}


def pairs(file: Path) -> Path:
    """Prompts differ in length, so processes differ in the number of scored tokens."""
    rows = (
        {"prompt": f"{i} boats? " * (i % 7), "completion": f"{i} left and {i * 37 % 101} came back"}
        for i in range(1, 90)
    )
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def distillation(
    make_model: MakeModel, data: Path, steps: int = 10, family: str = "llama", *more: object
) -> list[str]:
    student = make_model(family, seed=1, hidden_size=64, num_hidden_layers=2, intermediate_size=256)
    return [
        "distill",
        str(student),
        "--teacher",
        str(make_model(family)),
        "--data",
        f"jsonl:{data}",
        "--seq-len",
        "32",
        "--batch-size",
        "4",
        "--hidden-steps",
        str(steps),
        "--logit-steps",
        str(steps),
        "--hard",
        "0.2",
        "--device",
        "cpu",
        "--no-bf16",
        "--json",
        *map(str, more),
    ]


def torchrun(command: list[str], processes: int = 2, **environment: str) -> subprocess.Popen[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        str(processes),
        "--master-port",
        str(port),
    ]
    known = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(
        [*launch, "-m", "edgewright.cli", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=known,
    )


def finished(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    return json.loads(out)


def alone(cli: Cli, command: list[str], out: Path) -> dict[str, Any]:
    code, printed, err = cli(*command, "--out", out)
    assert code == 0, err
    return json.loads(printed)


def assert_alike(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for name, curve in expected["details"]["loss"].items():
        assert found["details"]["loss"][name] == pytest.approx(curve, abs=1e-4), name


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one(
    cli: Cli, make_model: MakeModel, tmp_path: Path
) -> None:
    """The head is untied, and the first stage does not train it; twenty steps."""
    command = distillation(make_model, pairs(tmp_path / "pairs.jsonl"))
    found = finished(torchrun([*command, "--out", str(tmp_path / "two")]))
    expected = alone(cli, command, tmp_path / "one")
    assert_alike(found, expected)
    assert "2 processes (gloo), 2 rows of every step each" in found["notes"]
    one, two = read_state(tmp_path / "one"), read_state(tmp_path / "two")
    assert max(float((one[k] - two[k]).abs().max()) for k in one) < 1e-3
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two", "pairs.jsonl"}


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_sharded_weights_have_the_losses_of_whole_ones(
    family: str, cli: Cli, make_model: MakeModel, tmp_path: Path
) -> None:
    """FSDP2, with an untied and with a tied head."""
    command = distillation(make_model, pairs(tmp_path / "pairs.jsonl"), 10, family)
    found = finished(torchrun([*command, "--out", str(tmp_path / "two")], **FSDP2))
    assert_alike(found, alone(cli, command, tmp_path / "one"))
    assert any("a part of the weights each" in note for note in found["notes"])
    one, two = read_state(tmp_path / "one"), read_state(tmp_path / "two")
    assert one.keys() == two.keys()
    assert max(float((one[k] - two[k]).abs().max()) for k in one) < 1e-3


@pytest.mark.slow
def test_a_cached_teacher_teaches_several_processes_in_parts(
    cli: Cli, make_model: MakeModel, tmp_path: Path
) -> None:
    """The main process runs the teacher while the other waits; training does not load it."""
    command = [
        *distillation(make_model, pairs(tmp_path / "pairs.jsonl"), 12),
        "--hidden-steps",
        "0",
    ]
    cached = [
        *command,
        "--teacher-cache",
        str(tmp_path / "cache"),
        "--top-k",
        "512",
        "--accumulate",
        "2",
    ]
    found = finished(torchrun([*cached, "--out", str(tmp_path / "two")]))
    assert_alike(found, alone(cli, command, tmp_path / "one"))
    assert any("all 512 logits" in note for note in found["notes"])


@pytest.mark.slow
def test_on_policy_rows_are_divided_among_processes(
    cli: Cli, make_model: MakeModel, tmp_path: Path
) -> None:
    """Each process continues its own rows, as a single process would."""
    command = [
        *distillation(make_model, pairs(tmp_path / "pairs.jsonl"), 10),
        "--hidden-steps",
        "0",
        "--hard",
        "0",
        "--on-policy",
        "0.5",
    ]
    found = finished(torchrun([*command, "--out", str(tmp_path / "two")]))
    assert_alike(found, alone(cli, command, tmp_path / "one"))


def child_of_rank(launcher: subprocess.Popen[str], rank: int) -> int:
    """Return the process id of a worker."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    return next(
        int(c)
        for c in children
        if f"RANK={rank}\0".encode()
        in Path(f"/proc/{c}/environ").read_bytes().replace(b"LOCAL_RANK", b"")
    )


@pytest.mark.slow
@pytest.mark.parametrize("environment", [{}, FSDP2], ids=["whole", "sharded"])
def test_one_process_is_killed(
    environment: dict[str, str], make_model: MakeModel, tmp_path: Path
) -> None:
    """The others report it; the same command resumes to the same bytes as without the kill."""
    command = distillation(
        make_model, pairs(tmp_path / "pairs.jsonl"), 60, "llama", "--save-every", 7
    )
    whole = finished(torchrun([*command, "--out", str(tmp_path / "whole")], **environment))
    place = tmp_path / ".out.learning"
    process = torchrun([*command, "--out", str(tmp_path / "out")], **environment)
    while process.poll() is None and not list(place.glob("step-00001-*[0-9]")):
        time.sleep(0.001)
    os.kill(child_of_rank(process, 1), signal.SIGKILL)
    _, err = process.communicate(timeout=600)
    assert process.returncode != 0
    assert "error: " in err and "another process of this run has ended" in err, err
    assert "start the same command again" in err
    assert not (tmp_path / "out").exists()
    process = torchrun([*command, "--out", str(tmp_path / "out")], **environment)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert "resumed after step" in err
    assert json.loads(out)["details"] == whole["details"]
    assert content_hash(tmp_path / "out", skip="edgewright.json") == content_hash(
        tmp_path / "whole", skip="edgewright.json"
    )
    assert not place.exists()


def test_what_several_processes_cannot_do(
    make_model: MakeModel, tmp_path: Path, cli: Cli, monkeypatch: Any
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    model = make_model("llama")
    for command in (
        ["quantize", model, "--out", tmp_path / "out"],
        ["traces", model, "--prompts", "builtin:reasoning", "--out", tmp_path / "t"],
    ):
        code, _, err = cli(*command)
        assert (code, "in one process, and 2 were started" in " ".join(err.split())) == (2, True), (
            err
        )
    assert not list(tmp_path.iterdir())


def test_one_process_where_several_were_meant_is_warned_about(
    cli: Cli, make_model: MakeModel, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")  # as `accelerate launch` sets it
    command = distillation(make_model, pairs(tmp_path / "pairs.jsonl"), 1)
    code, _, err = cli(*command, "--out", tmp_path / "out")
    assert code == 0
    assert "accelerate launch has started one process" in " ".join(err.split())
    assert "torchrun --nproc-per-node" in " ".join(err.split())
