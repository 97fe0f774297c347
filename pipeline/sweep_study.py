"""Opens the study of a sweep, and checks what it kept against the ledgers of the runs.

SQLite has no checksums. What a sweep decides by is in the sealed ledgers too, so it is compared.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from ..benchmarks.ledger_files import changed_samples, read_ledger
from ..checkpoints.disk import disk_error, is_full
from ..checkpoints.hashing import content_hash
from ..checkpoints.outputs import LEDGER
from ..checkpoints.sealed import Damaged
from ..errors import EdgewrightError
from .sweep_objectives import Objective, objective_values

__all__ = ["STUDY", "altered", "check_trials", "open_study", "parameters_key", "trial_folder"]

STUDY = "study.db"
HINT = "remove it and run the same command again: finished steps are taken over"


def open_study(file: Path, create: Callable[[], Any]) -> Any:
    """The study in a file, which is created if there is none.

    Args:
        file: the SQLite file.
        create: opens it with Optuna.

    Raises:
        Damaged: SQLite or Optuna cannot read it.
    """
    if file.exists():
        try:
            with closing(sqlite3.connect(file)) as connection:
                (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
        except sqlite3.Error as error:
            raise _unread(file, error) from error
        if found != "ok":
            raise Damaged(file, found, HINT)
    try:
        return create()
    except Exception as error:  # Optuna lets errors of SQLAlchemy, JSON and its own through
        raise _unread(file, error) from error


def _unread(file: Path, error: Exception) -> EdgewrightError:
    """What to say of a study that could not be opened: the disk may be full."""
    if is_full(error):
        return disk_error(file, error)
    return Damaged(file, f"{type(error).__name__}: {error}", HINT)


def parameters_key(parameters: Mapping[str, Any]) -> str:
    """The parameters of a trial as one text."""
    return json.dumps(dict(parameters), sort_keys=True)


def trial_folder(out: Path, parameters: Mapping[str, Any]) -> Path:
    """The directory of a trial's run."""
    name = hashlib.sha256(parameters_key(parameters).encode()).hexdigest()[:8]
    return out / "trials" / name


def altered(folder: Path) -> Path | None:
    """A result or a file of samples of a run that is not as it was written; None if all are.

    What is gone is not meant: people remove large results.

    Args:
        folder: the directory of the run.
    """
    file = folder / LEDGER
    if not file.is_file():
        return None
    for entry in read_ledger(file)["steps"]:
        made = entry.get("output_hash")  # the baseline was not made by the run
        output = folder / str(entry.get("output"))
        if made and output.is_dir() and content_hash(output) != made:
            return output
        if (changed := changed_samples(folder, entry)) and changed.exists():
            return changed
    return None


def check_trials(out: Path, trials: Iterable[Any], objectives: Sequence[Objective]) -> None:
    """Compare the finished trials of a study with the ledgers of their runs.

    Args:
        out: the directory of the sweep.
        trials: of the study, each with the attribute `run`.
        objectives: of the sweep.

    Raises:
        Damaged: a trial has other parameters, figures or another verdict than its run.
    """
    for trial in trials:
        folder = out / trial.user_attrs["run"]
        if folder != trial_folder(out, trial.params):
            raise Damaged(out / STUDY, f"trial {trial.number} is not the run in {folder}", HINT)
        file = folder / LEDGER
        if not trial.values or not file.is_file():
            continue
        ledger = read_ledger(file)
        values = objective_values(ledger)
        verdict = (ledger.get("gate") or {}).get("verdict", "")
        kept = [values.get(one.metric) for one in objectives]
        if kept != list(trial.values) or verdict != trial.user_attrs.get("verdict", ""):
            raise Damaged(out / STUDY, f"trial {trial.number} and {file} differ", HINT)
