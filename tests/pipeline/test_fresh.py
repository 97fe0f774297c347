"""`--fresh` removes what a run wrote, and never a file of somebody else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgewright.checkpoints.directories import atomic_directory
from edgewright.checkpoints.hashing import PROVENANCE
from edgewright.errors import UsageError
from edgewright.pipeline.fresh import clear_run
from edgewright.pipeline.ledger import Ledger

WRITTEN = (
    "report.html",
    "report.md",
    "traces.jsonl",
    "traces.report.json",
    "samples/baseline.json",
    "samples/prune.json",
    "samples/prune.jsonl",
    "prune.tensorboard/events",
    ".prune.journal/step.json",
    ".prune.tmp/half",
    ".prune.old/whole",
    ".prune.lock",
    ".ledger.json.tmp",
    ".traces.jsonl.chains/chains.jsonl",
)
FOREIGN = ("notes.txt", "data/rows.jsonl", "samples/mine.json", "other.tensorboard/events", "a.tmp")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A directory with everything that a run may leave."""
    Ledger(tmp_path).write()
    for folder in ("prune", "distill.last-good"):
        with atomic_directory(tmp_path / folder) as made:
            (made / "model.safetensors").write_text("weights")
            (made / PROVENANCE).write_text("{}")
    _write(tmp_path, *WRITTEN)
    return tmp_path


def _write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("content")


def _files(folder: Path) -> set[str]:
    return {str(one.relative_to(folder)) for one in folder.rglob("*") if one.is_file()}


def test_everything_that_a_run_wrote_is_removed(run: Path) -> None:
    clear_run(run)
    assert not list(run.iterdir())


def test_the_files_of_others_stay(run: Path) -> None:
    _write(run, *FOREIGN)
    clear_run(run)
    assert _files(run) == set(FOREIGN)


@pytest.mark.parametrize("name", ["prune/notes.txt", "prune/deep/notes.txt", "distill.last-good/x"])
def test_a_step_with_a_file_of_others_is_kept_and_nothing_is_removed(name: str, run: Path) -> None:
    _write(run, name)
    before = _files(run)
    with pytest.raises(UsageError, match="holds"):
        clear_run(run)
    assert _files(run) == before


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema": 1, "edgewright": 0, "steps": 1}'])
def test_a_damaged_ledger_is_removed_too(content: str, run: Path) -> None:
    (run / "ledger.json").write_text(content)
    clear_run(run)
    assert not list(run.iterdir())


def test_steps_without_an_output_are_known_from_the_ledger(run: Path) -> None:
    ledger = json.loads((run / "ledger.json").read_text())
    ledger["steps"] = [{"name": "gone", "kind": "prune"}]
    (run / "ledger.json").write_text(json.dumps(ledger))
    _write(run, "samples/gone.json")
    clear_run(run)
    assert not list(run.iterdir())
