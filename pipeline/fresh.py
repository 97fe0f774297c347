"""Removes what an earlier run wrote into its directory, and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

from ..checkpoints.outputs import LEDGER, RESERVED
from ..checkpoints.own_files import PROVENANCE, check_output, is_unlisted, set_aside
from ..checkpoints.sealed import Damaged, load_object
from .recipe import BASELINE
from .run_files import CURVES, FILES, SAMPLES

__all__ = ["clear_run"]


def clear_run(out: Path) -> None:
    """Remove the files of an earlier run; what somebody else put there stays.

    Raises:
        UsageError: the directory of a step holds what edgewright did not write. Nothing is removed.
    """
    steps = [one for one in out.iterdir() if (one / PROVENANCE).exists()]
    for folder in steps:
        check_output(folder)
    for folder in filter(is_unlisted, steps):
        set_aside(folder)
    steps = [folder for folder in steps if folder.exists()]
    names = {BASELINE, *(folder.name for folder in steps), *_recorded(out)}
    for path in [*out.iterdir(), *(out / SAMPLES).glob("*.json*")]:
        if path in steps or _is_written(path, names):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    if (out / SAMPLES).is_dir() and not any((out / SAMPLES).iterdir()):
        (out / SAMPLES).rmdir()


def _recorded(out: Path) -> set[str]:
    """The names of the steps in the ledger; empty if it is damaged."""
    try:
        ledger = load_object(out / LEDGER, "")
        return {str(step["name"]) for step in ledger["steps"]}
    except (Damaged, KeyError, TypeError):
        return set()


def _is_written(path: Path, names: set[str]) -> bool:
    """Whether a run wrote this file or directory, beside the directories of its steps."""
    if path.parent.name == SAMPLES:
        return path.stem in names
    curves = CURVES.fullmatch(path.name)
    unfinished = RESERVED.fullmatch(path.name)
    return path.name in FILES or bool(unfinished) or bool(curves and curves[1] in names)
