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

from ..benchmarks.ledger_files import read_ledger
from ..checkpoints.sealed import Damaged
from .sweep_objectives import Objective, objective_values

__all__ = ["STUDY", "check_trials", "open_study", "parameters_key", "trial_folder"]

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
            raise Damaged(file, error, HINT) from error
        if found != "ok":
            raise Damaged(file, found, HINT)
    try:
        return create()
    except Exception as error:  # Optuna lets errors of SQLAlchemy, JSON and its own through
        raise Damaged(file, f"{type(error).__name__}: {error}", HINT) from error


def parameters_key(parameters: Mapping[str, Any]) -> str:
    """The parameters of a trial as one text."""
    return json.dumps(dict(parameters), sort_keys=True)


def trial_folder(out: Path, parameters: Mapping[str, Any]) -> Path:
    """The directory of a trial's run."""
    name = hashlib.sha256(parameters_key(parameters).encode()).hexdigest()[:8]
    return out / "trials" / name


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
        file = folder / "ledger.json"
        if not trial.values or not file.is_file():
            continue
        ledger = read_ledger(file)
        values = objective_values(ledger)
        verdict = (ledger.get("gate") or {}).get("verdict", "")
        kept = [values.get(one.metric) for one in objectives]
        if kept != list(trial.values) or verdict != trial.user_attrs.get("verdict", ""):
            raise Damaged(out / STUDY, f"trial {trial.number} and {file} differ", HINT)
