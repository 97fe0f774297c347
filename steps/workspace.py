"""Work in progress: a directory beside the output from which an interrupted step resumes."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..checkpoints.files import disk_error
from ..checkpoints.sealed import Damaged, read_sealed, write_sealed
from ..console import console
from ..errors import EdgewrightError

__all__ = ["differences", "locked", "workspace"]

LOCK = ".lock"
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
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a directory, so that two runs cannot overwrite each other's files.

    The operating system releases the lock when the process ends, even if it is killed.

    Raises:
        EdgewrightError: another run holds it.
    """
    with (folder / LOCK).open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise EdgewrightError(
                f"{folder}: another edgewright run is working there",
                "wait for it, or choose another --out",
            ) from error
        yield


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
    folder = out.with_name(f".{out.name}.{kind}")
    fields = json.loads(json.dumps(depends_on))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(folder, error) from error
    with locked(folder):
        try:
            _prepare(folder, fields, fresh)
            yield folder
        except BaseException:
            if not any(folder.glob(finished)):
                shutil.rmtree(folder, ignore_errors=True)
            raise
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
        if path.name != LOCK:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    try:
        write_sealed(record, fields)
    except OSError as error:
        raise disk_error(folder, error) from error


def _recorded(record: Path) -> dict[str, Any] | None:
    """What the interrupted step depended on; None if its record is damaged."""
    try:
        return read_sealed(record, "start the step again with --fresh")
    except Damaged as error:
        console.print(f"  started afresh: {error}", highlight=False, markup=False)
        return None
