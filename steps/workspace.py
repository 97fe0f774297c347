"""Work in progress: a directory beside the output from which an interrupted step resumes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..checkpoints.disk import writing
from ..checkpoints.locks import SUFFIX, locked
from ..checkpoints.sealed import Damaged, read_sealed, write_sealed
from ..console import console

__all__ = ["differences", "remove_workspace", "workspace"]

STEP = "step.json"


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The dotted names of the fields in which two fingerprints differ."""
    names: list[str] = []
    for key in sorted(old.keys() | new.keys()):
        a = old.get(key)
        b = new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            names += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            names.append(f"{prefix}{key}")
    return names


@contextmanager
def workspace(
    out: Path, kind: str, depends_on: Mapping[str, Any], finished: str, fresh: bool = False
) -> Iterator[Path]:
    """The directory `.<out>.<kind>`, with the files of an interrupted run of the same step.

    It is empty where there are none, and removed when the step succeeds.

    Args:
        out: output of the step.
        kind: kind of work.
        depends_on: everything that the result depends on, by field. If a field differs from that
            of the interrupted run, a message names it and the old files are removed. Empty: old
            files are always removed.
        finished: pattern of the files that are kept when the step fails.
        fresh: remove old files.

    Raises:
        EdgewrightError: another run works there, or the directory is not writable.
    """
    folder = _folder_of(out, kind)
    fields = json.loads(json.dumps(depends_on))
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, inside=True):
        try:
            _prepare(folder, fields, fresh)
            yield folder
        except BaseException:
            if not any(folder.glob(finished)):
                _remove(folder)
            raise
        _remove(folder)


def remove_workspace(out: Path, kind: str) -> None:
    """Remove what a command left that was killed after it had finished its work.

    Args:
        out: output of the step.
        kind: kind of work.

    Raises:
        EdgewrightError: another run works there.
    """
    folder = _folder_of(out, kind)
    if folder.is_dir():
        with locked(folder, inside=True):
            _remove(folder)


def _folder_of(out: Path, kind: str) -> Path:
    return out.with_name(f".{out.name}.{kind}")


def _remove(folder: Path) -> None:
    """Remove a workspace, its record first: nothing is resumed from one that is half removed."""
    (folder / STEP).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _prepare(folder: Path, fields: Mapping[str, Any], fresh: bool) -> None:
    """Remove the files of another step, and record what this step depends on."""
    record = folder / STEP
    old = _recorded(record) if record.exists() and not fresh else None
    if old == fields and fields and not fresh:
        return
    if old and fields and not fresh:
        changed = ", ".join(differences(old, fields))
        console.print(
            f"  started afresh: {changed} changed since the interrupted run", highlight=False
        )
    for path in folder.iterdir():
        if path.name != SUFFIX:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    write_sealed(record, fields)


def _recorded(record: Path) -> dict[str, Any] | None:
    """What the interrupted step depended on; None if its record is damaged."""
    try:
        return read_sealed(record, "start the step again with --fresh")
    except Damaged as error:
        console.print(f"  started afresh: {error}", highlight=False, markup=False)
        return None
