"""Write single files whole or not at all. Imports no torch, which reports do not need."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .disk import writing

__all__ = ["copy_file", "write_json", "write_text"]


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically.

    Raises:
        NotWritten: it cannot be written; `NoSpace` if the disk is full.
    """
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file atomically.

    Raises:
        NotWritten: it cannot be written; `NoSpace` if the disk is full.
    """
    content = text.encode(errors="replace")
    with _replacing(path, len(content)) as temporary:
        _write(temporary, content)


def copy_file(source: Path, path: Path) -> None:
    """Copy a file atomically.

    Raises:
        NotWritten: it cannot be written; `NoSpace` if the disk is full.
    """
    with _replacing(path, source.stat().st_size) as temporary:
        shutil.copyfile(source, temporary)


@contextmanager
def _replacing(path: Path, size: int) -> Iterator[Path]:
    """A temporary name that becomes `path` if the block succeeds, and is removed if it fails."""
    temporary = path.with_name(f".{path.name}.tmp")
    with writing(path, size):
        try:
            yield temporary
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise


def _write(path: Path, content: bytes) -> None:
    """Write a file, and wait until it is on the disk."""
    with path.open("wb") as handle:
        handle.write(content)
        handle.flush()
        os.fsync(handle.fileno())
