"""Work in progress: a directory beside an output, in which an interrupted step finds again what it had finished."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..checkpoints.files import disk_error, write_json
from ..console import console
from ..errors import EdgewrightError

__all__ = ["differences", "locked", "workplace"]

LOCK = ".lock"
STEP = "step.json"


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The dotted names of the fields in which two fingerprints differ."""
    names: list[str] = []
    for key in sorted(old.keys() | new.keys()):
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            names += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            names.append(f"{prefix}{key}")
    return names


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One run a directory: two would overwrite each other's work. The lock goes with the process, however it ends."""
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
def workplace(
    out: Path, kind: str, depends_on: Mapping[str, Any], finished: str, fresh: bool = False
) -> Iterator[Path]:
    """A directory `.<out>.<kind>` as an interrupted run of the same step left it, else empty; gone when all went well.

    Args:
        out: what is being made.
        kind: of the work.
        depends_on: everything the step depends on, by field; a field that differs is named, and what is there goes.
            Empty: nothing may be taken over.
        finished: pattern of the files that are worth keeping when the step fails.
        fresh: take nothing over.

    Raises:
        EdgewrightError: another run works there, or the place cannot be written to.
    """
    place, fields = out.with_name(f".{out.name}.{kind}"), json.loads(json.dumps(depends_on))
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(place, error) from error
    with locked(place):
        try:
            _prepare(place, fields, fresh)
            yield place
        except BaseException:
            if not any(place.glob(finished)):
                shutil.rmtree(place, ignore_errors=True)
            raise
        shutil.rmtree(place, ignore_errors=True)


def _prepare(place: Path, fields: Mapping[str, Any], fresh: bool) -> None:
    """Clear what another step left, and say what this one depends on."""
    mark = place / STEP
    old = json.loads(mark.read_text()) if mark.is_file() else None
    if old == fields and fields and not fresh:
        return
    if old and fields and not fresh:
        console.print(
            f"  started afresh: {', '.join(differences(old, fields))} changed since the interrupted run",
            highlight=False,
        )
    for path in place.iterdir():
        if path.name != LOCK:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    try:
        write_json(mark, fields)
    except OSError as error:
        raise disk_error(place, error) from error
