"""Two real commands at one place: the first is stopped (SIGSTOP) in the middle of its work.

The second one is refused with the first one's name. The first, once it goes on, ends as if it had
been alone.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

LIMIT = 1200
"""Seconds; a busy machine may stop these processes for minutes."""
QUANTIZE = "quantize model --method rtn --group-size 32 --samples 1 --seq-len 32 --out out"
EXPORT = "export model --out out"
PRUNE = "prune model --ffn 0.5 --criterion magnitude --samples 1 --seq-len 32 --out out"
TRACES = (
    "traces builtin:tiny-reasoner --prompts builtin:reasoning --limit 2 --chains 2 "
    "--max-new-tokens 8 --out out"
)
RUN = "run recipe.yaml --out out"
UPDATE = "gate new.json --baseline out --update-baseline"
PAIRS = [
    pytest.param(QUANTIZE, EXPORT, id="quantize export"),
    pytest.param(EXPORT, QUANTIZE, id="export quantize", marks=pytest.mark.slow),
    pytest.param(PRUNE, PRUNE, id="prune prune", marks=pytest.mark.slow),
    pytest.param(PRUNE, f"{PRUNE} --fresh", id="prune prune fresh", marks=pytest.mark.slow),
    pytest.param(RUN, RUN, id="run run", marks=pytest.mark.slow),
    pytest.param(RUN, f"{RUN} --fresh", id="run run fresh", marks=pytest.mark.slow),
    pytest.param(RUN, f"{QUANTIZE}/prune", id="run quantize", marks=pytest.mark.slow),
    pytest.param(RUN, f"{QUANTIZE}/other", id="run quantize beside", marks=pytest.mark.slow),
    pytest.param(RUN, "report out", id="run report", marks=pytest.mark.slow),
    pytest.param(RUN, QUANTIZE, id="run quantize at its place", marks=pytest.mark.slow),
    pytest.param(f"{QUANTIZE}/step", RUN, id="quantize run", marks=pytest.mark.slow),
    pytest.param(TRACES, TRACES, id="traces traces", marks=pytest.mark.slow),
    pytest.param(f"{TRACES}.a", f"{TRACES}.b", id="traces one report", marks=pytest.mark.slow),
    pytest.param(UPDATE, UPDATE, id="update update"),
    pytest.param(QUANTIZE, "bench model --save out", id="quantize save", marks=pytest.mark.slow),
]
LOCKS = {f"{TRACES}.a": 2}
"""How many locks a command takes, if not one: the traces, and then their report."""
RECIPE = {
    "name": "two",
    "model": "model",
    "calibration": {"source": "text:story.txt", "samples": 1, "seq_len": 32},
    "evaluate": {
        "tasks": [],
        "perplexity": ["text:story.txt"],
        "windows": 1,
        "seq_len": 32,
        "latency": None,
    },
    "steps": [{"kind": "prune", "ffn": 0.5, "criterion": "magnitude"}],
}
MEASUREMENT = {"name": "m", "metrics": {"accuracy/x": 0.5}, "context": {}, "samples": {}}


@pytest.fixture
def work(copy_model: Callable[..., Path], text_file: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    copy_model("llama").rename(folder / "model")
    shutil.copyfile(text_file, folder / "story.txt")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    (folder / "new.json").write_text(json.dumps(MEASUREMENT))
    return folder


def start(command: str, work: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "edgewright.cli", *command.split()],
        cwd=work,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


@contextmanager
def stopped(command: str, work: Path) -> Iterator[subprocess.Popen[str]]:
    """A command that is stopped as soon as it holds its locks; killed in the end."""
    process = start(command, work)
    deadline = time.monotonic() + LIMIT
    try:
        while sum(map(_owned, work.rglob(".*lock"))) < LOCKS.get(command, 1):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.0005)
        os.killpg(process.pid, signal.SIGSTOP)
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _owned(file: Path) -> bool:
    try:
        return file.stat().st_size > 0
    except OSError:
        return False


def content(work: Path) -> dict[str, bytes]:
    """What does not differ between two calls: no reports, and no cards with times in them."""
    volatile = ("README.md", "ledger.json", "report.html", "report.md")
    return {
        str(file.relative_to(work)): file.read_bytes()
        for file in sorted(work.rglob("*"))
        if file.is_file() and file.name not in volatile
    }


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_the_second_is_refused_and_the_first_ends_undisturbed(
    first: str, second: str, work: Path, tmp_path: Path
) -> None:
    alone = Path(shutil.copytree(work, tmp_path / "alone" / "work"))
    done = start(first, alone)
    _, error = done.communicate(timeout=LIMIT)
    assert done.returncode == 0, error
    with stopped(first, work) as process:
        other = start(second, work)
        _, error = other.communicate(timeout=LIMIT)
        assert other.returncode == 1, error
        said = " ".join(error.split())
        assert "another edgewright run is writing there" in said
        assert f"process {process.pid} on " in said
        assert "Traceback" not in said
        os.killpg(process.pid, signal.SIGCONT)
        _, error = process.communicate(timeout=LIMIT)
        assert process.returncode == 0, error
    assert content(work).keys() == content(alone).keys()
    assert content(work) == content(alone)


@pytest.mark.parametrize("command", [QUANTIZE, pytest.param(RUN, marks=pytest.mark.slow)])
def test_a_killed_command_does_not_stand_in_the_way(command: str, work: Path) -> None:
    with stopped(command, work) as process:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        again = start(command, work)
        _, error = again.communicate(timeout=LIMIT)
        assert again.returncode == 0, error
    assert not list(work.rglob(".*lock"))


@pytest.mark.slow
def test_two_commands_share_the_text_that_a_model_writes(work: Path, tmp_path: Path) -> None:
    """Both need the same entry of the cache: one writes it, and the other waits for it."""
    command = QUANTIZE.replace("rtn", "gptq") + "{} --calibration builtin:own"
    os.environ["EDGEWRIGHT_CACHE"] = str(tmp_path / "cache")
    both = [start(command.format(number), work) for number in (1, 2)]
    for process in both:
        _, error = process.communicate(timeout=LIMIT)
        assert process.returncode == 0, error
    weights = [(work / f"out{number}" / "model.safetensors").read_bytes() for number in (1, 2)]
    assert weights[0] == weights[1]
    (kept,) = (tmp_path / "cache" / "own-text").iterdir()
    numbers = [json.loads(line)["number"] for line in kept.read_text().splitlines()]
    assert numbers == list(range(len(numbers)))
