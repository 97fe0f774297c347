"""A file of sealed lines that grows while work goes on, so that an interrupted command resumes."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..console import console
from .disk import writing
from .sealed import Damaged, open_line, seal_line

__all__ = ["append_lines", "read_lines"]


def append_lines(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append objects, one sealed line each, and make sure that they are on disk.

    Raises:
        NotWritten: they cannot be written; `NoSpace` if the disk is full.
    """
    lines = [seal_line(row).encode("utf-8", "surrogatepass") for row in rows]
    with writing(file), file.open("ab") as handle:
        handle.writelines(lines)
        handle.flush()
        os.fsync(handle.fileno())


def read_lines(file: Path) -> list[dict[str, Any]]:
    """The objects in the file; none if there is no file.

    A damaged line and all after it are removed from the file, and so is a last line that is not
    complete.

    Raises:
        Damaged: it is no file.
    """
    if not file.exists():
        return []
    if not file.is_file():
        raise Damaged(file, "not a file", "move it away")
    lines = file.read_bytes().splitlines(keepends=True)
    rows = list(itertools.takewhile(lambda row: row is not None, map(_opened, lines)))
    if len(rows) < len(lines) and lines[len(rows)].endswith(b"\n"):
        console.print(
            f"  {file}: damaged from line {len(rows) + 1} on, which is made again", highlight=False
        )
    os.truncate(file, sum(map(len, lines[: len(rows)])))
    return [row for row in rows if row is not None]


def _opened(line: bytes) -> dict[str, Any] | None:
    """The object in a complete line; None if it is damaged."""
    return open_line(line) if line.endswith(b"\n") else None
