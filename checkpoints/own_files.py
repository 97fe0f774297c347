"""The files of a directory that edgewright made: listed, so that only these are ever replaced."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from ..console import console
from ..errors import UsageError
from .sealed import Damaged, read_sealed, write_sealed

__all__ = [
    "CARD",
    "ELSEWHERE",
    "PROVENANCE",
    "check_output",
    "is_unlisted",
    "list_files",
    "set_aside",
]

PROVENANCE = "edgewright.json"
CARD = "README.md"
"""The model card: measurements of a directory, which are no part of its content."""
WRITTEN = "written"
"""The names of a directory's files, in its `edgewright.json`."""
ELSEWHERE = "choose another --out, or remove it yourself"


def check_output(out: Path) -> None:
    """Accept a directory to be made: it is absent, empty, or holds only what edgewright wrote.

    So is one whose record does not tell (`is_unlisted`): it is set aside before it is replaced.

    Raises:
        UsageError: `out` is a file or a link, or holds something that edgewright did not write.
    """
    if out.is_symlink():
        raise UsageError(f"{out}: a link, which cannot be replaced", "choose another --out")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / PROVENANCE).exists():
        raise UsageError(f"{out}: exists and was not written by edgewright", ELSEWHERE)
    if not is_unlisted(out) and (foreign := _foreign_files(out)):
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise UsageError(
            f"{out}: holds {foreign[0]}{more}, which {PROVENANCE} does not list: it was not "
            "written by edgewright",
            "choose another --out, or move your files away",
        )


def is_unlisted(folder: Path) -> bool:
    """Whether a record does not say which files of its directory are edgewright's.

    It is damaged beyond one byte, or of an earlier version, which listed no files.
    """
    file = folder / PROVENANCE
    try:
        return not isinstance(read_sealed(file, "", older=True).get(WRITTEN), list)
    except Damaged:
        text = file.read_bytes() if file.is_file() else b""
        return not all(_is_mentioned(name, text) for name in _files(folder))


def set_aside(folder: Path) -> None:
    """Keep a directory that is to be replaced under another name, and say so."""
    names = (f"{folder.name}.before{number or ''}" for number in count())
    kept = next(path for name in names if not os.path.lexists(path := folder.with_name(name)))
    folder.replace(kept)
    console.print(
        f"  {PROVENANCE} does not say which files in {folder} are edgewright's: "
        f"it is damaged, or of an earlier version. They were moved to {kept}",
        highlight=False,
        markup=False,
    )


def _foreign_files(folder: Path) -> list[str]:
    """The files of a directory that its `edgewright.json` does not list; sorted names."""
    try:
        listed = read_sealed(folder / PROVENANCE, "", older=True)[WRITTEN]
    except Damaged:
        return []  # `is_unlisted` has found all of them in what is left of the list
    return sorted(name for name in _files(folder) if name not in listed)


def _is_mentioned(name: str, text: bytes) -> bool:
    """Whether a damaged list names a file, with at most one wrong byte."""
    quoted = json.dumps(name).encode()
    parts = ((re.escape(quoted[:at]), re.escape(quoted[at + 1 :])) for at in range(len(quoted)))
    return any(re.search(b"%b.%b" % part, text, re.DOTALL) for part in parts)


def list_files(folder: Path) -> None:
    """Write the names of a directory's files into its `edgewright.json`, if it has one."""
    file = folder / PROVENANCE
    if not file.is_file():
        return
    provenance = read_sealed(file, "", older=True)
    listed = sorted(_files(folder))
    if provenance.get(WRITTEN) != listed:
        write_sealed(file, {**provenance, WRITTEN: listed})


def _files(folder: Path) -> Iterator[str]:
    """Relative names of all files and links below a directory, but provenance and model card.

    A kill may leave the two unfinished.
    """
    own = {name for one in (PROVENANCE, CARD) for name in (one, f".{one}.tmp")}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if name not in own and (path.is_symlink() or not path.is_dir()):
            yield name
