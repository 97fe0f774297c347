"""The campaign `make faults`: what it compares, how it counts, and one short run of it."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from edgewright.perf.faults.commands import COMMANDS
from edgewright.perf.faults.process import Ended
from edgewright.perf.faults.results import Result, findings, read_results, table, write_result
from edgewright.perf.faults.scenarios import FAULTS
from edgewright.perf.faults.site import Site
from edgewright.perf.faults.snapshot import differences, merged, snapshot


def left(folder: Path, **files: str) -> dict[str, dict[str, object]]:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text)
    return snapshot(folder)


def test_what_differs_between_undisturbed_runs_is_measured(tmp_path: Path) -> None:
    def run(seconds: float, loss: float, text: str) -> dict[str, dict[str, object]]:
        measured = json.dumps({"seconds": seconds, "loss": loss})
        return left(tmp_path, a_json=measured, card_md=f"took {seconds} s: {text}", b_bin=text)

    reference = merged(run(1.5, 2.0, "done"), run(2.5, 2.0, "done"))
    assert not differences(reference, run(9.0, 2.0, "done"))
    assert differences(reference, run(9.0, 2.1, "done")) == ["a.json differs"]
    assert differences(reference, run(9.0, 2.0, "half")) == ["b.bin differs", "card.md differs"]
    found = run(1.5, 2.0, "done")
    assert differences(reference, {**found, ".a.tmp": {}}) == [".a.tmp is left over"]
    del found["b.bin"]
    assert differences(reference, found) == ["b.bin is missing"]


def test_a_file_without_times_is_compared_byte_for_byte(tmp_path: Path) -> None:
    reference = merged(left(tmp_path, a_json='{"b": 1}'), left(tmp_path, a_json='{"b": 1}'))
    assert differences(reference, left(tmp_path, a_json='{"b":  1}')) == ["a.json differs"]


def test_undisturbed_runs_that_leave_other_files(tmp_path: Path) -> None:
    first = left(tmp_path, a_bin="")
    with pytest.raises(ValueError, match=r"b\.bin"):
        merged(first, left(tmp_path, b_bin=""))


@pytest.mark.parametrize(
    ("code", "err", "problem"),
    [
        (3, "error: out: No space left (5 MB needed, 1 MB free)", ""),
        (1, "error: out: No space left (1 MB free)", "exit code 1"),
        (3, "Traceback (most recent call last)\nOSError: free", "a traceback"),
        (3, "error: OSError: free\n -> run it again with --debug for", "no clear sentence"),
        (3, "error: out: No space left", "the message lacks `free`"),
    ],
)
def test_a_clear_sentence(code: int, err: str, problem: str) -> None:
    site = object.__new__(Site)
    site.problems = []
    site.notes = []
    site.expect_sentence(Ended(code, "", err, 1.0), (3,), "free")
    assert [found.startswith(problem) for found in site.problems] == [True] * bool(problem)


def test_results_are_counted_and_resumed(tmp_path: Path) -> None:
    right = Result("run", "kill", 0, [], ["at change 5"], 1.0)
    wrong = replace(right, seed=1, problems=["run again: out differs"])
    file = tmp_path / "results.jsonl"
    for result in (wrong, right, replace(wrong, problems=[]), wrong):
        write_result(file, result)
    with file.open("a") as handle:
        handle.write('{"command": "run"')
    found = read_results(file)
    assert found == {"run:kill:0": right, "run:kill:1": wrong}
    assert "| run | 1/2 | 1/2 |" in table(found.values())
    assert findings(found.values()) == "run:kill:1: run again: out differs (at change 5)"


def test_the_campaign_covers_every_step_kind_and_twenty_kills() -> None:
    verbs = {command.arguments[0] for command in COMMANDS.values()}
    assert verbs >= {"prune", "distill", "quantize", "export", "iterate", "run", "sweep", "gate"}
    assert verbs >= {"bench", "traces", "report", "compare", "deploy"}
    assert FAULTS["kill"].seeds >= 20
    draws = [random.Random(f"run:kill:{seed}").random() for seed in range(20)]
    assert len(set(draws)) == 20


@pytest.mark.slow
def test_a_short_campaign(tmp_path: Path) -> None:
    names = ["gate-update:kill:0", "gate-files:disk-full:0", "prune-heads:terminate:0"]
    command = [sys.executable, "-m", "edgewright.perf.faults", "--work", str(tmp_path)]
    done = subprocess.run(
        [*command, "--only", *names], capture_output=True, text=True, env=os.environ, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(read_results(tmp_path / "results.jsonl")) == set(names)
    assert "| all |" in done.stdout
