"""The files of a directory that edgewright made: listed, so that only these are ever replaced."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from ..errors import UsageError
from .sealed import Damaged, read_sealed, write_sealed

__all__ = ["CARD", "ELSEWHERE", "PROVENANCE", "check_output", "list_files"]

PROVENANCE = "edgewright.json"
CARD = "README.md"
"""The model card: measurements of a directory, which are no part of its content."""
WRITTEN = "written"
"""The names of a directory's files, in its `edgewright.json`."""
ELSEWHERE = "choose another --out, or remove it yourself"


def check_output(out: Path) -> None:
    """Accept a directory to be made: it is absent, empty, or holds only what edgewright wrote.

    Raises:
        UsageError: `out` is a file or a link, or holds something that edgewright did not write.
    """
    if out.is_symlink():
        raise UsageError(f"{out}: a link, which cannot be replaced", "choose another --out")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / PROVENANCE).is_file():
        raise UsageError(f"{out}: exists and was not written by edgewright", ELSEWHERE)
    if foreign := _foreign_files(out):
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise UsageError(
            f"{out}: holds {foreign[0]}{more}, which {PROVENANCE} does not list: it was not "
            "written by edgewright, or by an earlier version, which listed no files",
            "choose another --out, or move your files away and remove the rest yourself",
        )


def _foreign_files(folder: Path) -> list[str]:
    """The files of a directory that its `edgewright.json` does not list; sorted names."""
    file = folder / PROVENANCE
    found = sorted(_files(folder))
    try:
        listed = read_sealed(file, "", older=True).get(WRITTEN)
    except Damaged:
        text = file.read_bytes()
        return [name for name in found if not _is_mentioned(name, text)]
    names = listed if isinstance(listed, list) else []
    return [name for name in found if name not in names]


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
    """Relative names of all files and links below a directory, but provenance and model card."""
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if name not in (PROVENANCE, CARD) and (path.is_symlink() or not path.is_dir()):
            yield name
