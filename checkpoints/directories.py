"""Write directories whole or not at all. Imports no torch, which bundles do not need."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .disk import require_space, writing
from .own_files import check_output, is_unlisted, list_files, set_aside

__all__ = ["atomic_directory", "scratch_directory", "sync"]


@contextmanager
def scratch_directory(path: Path) -> Iterator[Path]:
    """A name for intermediate files, removed before and after.

    What a killed run left behind is removed by the next run.
    """
    shutil.rmtree(path, ignore_errors=True)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def atomic_directory(out: Path, needed: float | None = None) -> Iterator[Path]:
    """A temporary directory that becomes `out` if the block succeeds, and is removed if it fails.

    Its `edgewright.json` lists its files, so that only these are ever replaced.

    Args:
        out: the directory to make.
        needed: bytes that it will take at least, if they are known before.

    Raises:
        UsageError: `out` is a file or a link, or holds something that edgewright did not write.
        NoSpace: the disk is full, or has less room than needed.
        NotWritten: the place cannot be written to.
    """
    check_output(out)
    temporary = out.with_name(f".{out.name}.tmp")
    replaced = out.with_name(f".{out.name}.old")
    if replaced.exists() and not out.exists():  # killed between the two renames below
        replaced.replace(out)
    shutil.rmtree(replaced, ignore_errors=True)
    shutil.rmtree(temporary, ignore_errors=True)
    if needed is not None:
        require_space(out, needed)
    try:
        with writing(out, needed, whole=True):
            temporary.mkdir(parents=True)
            yield temporary
            list_files(temporary)
            sync(temporary)
            if out.exists() and any(out.iterdir()) and is_unlisted(out):
                set_aside(out)
            elif out.exists():
                out.replace(replaced)
            temporary.replace(out)
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def sync(folder: Path) -> None:
    """Wait until a directory and every file below it are on the disk."""
    for path in [p for p in folder.rglob("*") if p.is_file()] + [folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
