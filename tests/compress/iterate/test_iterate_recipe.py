"""Iterative pruning in a recipe and on the command line, also after a killed run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from shlex import split
from typing import Any

import pytest
import torch
import yaml

from edgewright.checkpoints.hashing import content_hash
from edgewright.checkpoints.tensors import read_state
from edgewright.errors import UsageError
from edgewright.pipeline.plan import plan_recipe
from edgewright.pipeline.recipe_file import load_recipe
from edgewright.pipeline.run import run_recipe

MakeModel = Callable[..., Path]


def recipe_file(folder: Path, model: Path, text_file: Path) -> Path:
    step = {
        "kind": "iterate",
        "rounds": 2,
        "prune": {"heads": 0.25, "ffn": 0.5},
        "held_out_rows": 8,
        "max_loss_increase": 5.0,
        "recover": {
            "data": f"text:{text_file}",
            "seq_len": 24,
            "batch_size": 4,
            "stages": [{"loss": "logits", "steps": 3}],
        },
    }
    recipe = {
        "name": "rounds",
        "model": str(model),
        "device": "cpu",
        "steps": [step],
        "calibration": {"source": f"text:{text_file}", "samples": 6, "seq_len": 32},
        "evaluate": {"tasks": [], "perplexity": [f"text:{text_file}"], "windows": 4, "seq_len": 32},
    }
    path = folder / "rounds.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def test_a_recipe_with_rounds(
    make_model: MakeModel, text_file: Path, tmp_path: Path, capsys: Any
) -> None:
    recipe = load_recipe(recipe_file(tmp_path, make_model("llama"), text_file))
    rows = {row["step"]: row for row in plan_recipe(recipe)}
    ledger = run_recipe(recipe, tmp_path / "run")
    entry = next(step for step in ledger["steps"] if step["name"] == "iterate")
    assert (
        rows["iterate"]["parameters"]
        == entry["metrics"]["parameters"]
        == entry["details"]["curve"][-1]["parameters"]
    )
    assert rows["iterate"]["seconds"] > 0
    assert any(note.startswith("round 2: ") for note in entry["notes"])
    assert set(entry["depends_on"]["inputs"]) == {"baseline"}
    assert set(entry["depends_on"]["data"]) == {f"text:{text_file}"}
    run_recipe(recipe, tmp_path / "run")
    assert capsys.readouterr().err.count("reused") == 1


def test_errors_in_a_recipe_name_the_place(
    make_model: MakeModel, text_file: Path, tmp_path: Path
) -> None:
    path = recipe_file(tmp_path, make_model("llama"), text_file)
    with pytest.raises(UsageError, match=r"`steps.0.recover.stages`: `logits` needs a teacher"):
        load_recipe(path, ["steps.iterate.recover.teacher=none"])
    with pytest.raises(
        UsageError,
        match=r"`steps.0.recover.student`: the student is the model that each round prunes",
    ):
        load_recipe(path, ["steps.iterate.recover.student=baseline"])


@pytest.mark.slow
def test_kill_9_between_rounds_then_the_same_command(
    make_model: MakeModel, text_file: Path, tmp_path: Path
) -> None:
    data = f"text:{text_file}"
    command = [sys.executable, "-m", "edgewright.cli", "iterate", str(make_model("llama"))]
    command += split("--rounds 3 --heads 0.25 --ffn 0.75 --layers 1")
    command += ["--data", data, "--calibration", data, "--samples", "4", "--seq-len", "24"]
    command += split("--batch-size 4 --hidden-steps 3 --logit-steps 5 --held-out-rows 8")
    command += split("--device cpu --json --out")
    quiet: dict[str, Any] = {
        "cwd": tmp_path,
        "env": {**os.environ, "OMP_NUM_THREADS": "1"},
        "text": True,
    }
    whole = subprocess.run([*command, "whole"], capture_output=True, check=True, **quiet)
    assert len(json.loads(whole.stdout)["details"]["curve"]) == 4
    killed = subprocess.Popen(
        [*command, "killed"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        **quiet,
    )
    deadline = time.monotonic() + 600
    while not (tmp_path / ".killed.rounds" / "cut-2").exists():
        assert killed.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline, "the second round never began"
        time.sleep(0.005)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "killed").exists()
    again = subprocess.run([*command, "killed"], capture_output=True, check=True, **quiet)
    assert "round 1: reused" in again.stderr
    assert "round 2: reused" not in again.stderr
    one, two = (read_state(tmp_path / name) for name in ("whole", "killed"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert content_hash(tmp_path / "whole", skip="edgewright.json") == content_hash(
        tmp_path / "killed", skip="edgewright.json"
    )
    assert {p.name for p in tmp_path.iterdir()} == {"whole", "killed"}
