"""What the system refuses a verb, as one clear message: room on a disk, memory, files, threads.

Where the place is known, the code that writes names it (`checkpoints.disk.writing`). This is the
last place: it knows what libraries raise, and perhaps a file name.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..checkpoints.disk import disk_error, refusal_of
from ..errors import EdgewrightError, NotWritten
from .missing_packages import missing_package

__all__ = ["explained_failures", "out_of_resources"]

NO_MEMORY = (
    "can't allocate memory",
    "cannot allocate memory",
    "failed to allocate memory",
    "not enough memory",
    "out of memory",
    "bad_alloc",
    "bad allocation",
    "(os error 12)",
    "could not create a primitive",
)
"""What libraries say when memory runs out, in lower case; the last one is oneDNN's."""
NO_THREADS = ("can't start new thread", "resource temporarily unavailable")
"""What they say when the system refuses another thread or process."""


@contextmanager
def explained_failures() -> Iterator[None]:
    """Turn what the system refuses within the block into one message.

    Raises:
        NotWritten: a file could not be written.
        EdgewrightError: memory, threads or open files ran out, or an optional package is missing.
    """
    try:
        yield
    except EdgewrightError:
        raise
    except Exception as error:
        known = out_of_resources(error) or _not_written(error) or _not_installed(error)
        if known is None:
            raise
        raise known from error


def out_of_resources(error: BaseException) -> EdgewrightError | None:
    """The error for memory or threads that ran out; None: it is something else."""
    text = str(error)
    first = (text.strip().splitlines() or [type(error).__name__])[0][:200]
    if isinstance(error, MemoryError) or any(sign in text.lower() for sign in NO_MEMORY):
        return EdgewrightError(
            f"out of memory: {first}",
            "free memory, raise its limit (ulimit -v), or give the command less at a time",
        )
    if any(sign in text.lower() for sign in NO_THREADS):
        return EdgewrightError(
            f"the system refuses another thread or process: {first}",
            "raise the limits of processes and memory (ulimit -u, ulimit -v)",
        )
    return None


def _not_installed(error: Exception) -> EdgewrightError | None:
    return missing_package(error) if isinstance(error, ImportError) else None


def _not_written(error: Exception) -> EdgewrightError | None:
    """The error for a file that could not be written; None: it is something else."""
    number = refusal_of(error)
    if number is None:
        return None
    named = getattr(error, "filename", None)
    if named and number in (errno.EACCES, errno.EPERM):  # perhaps it was only to be read
        return NotWritten(f"{named}: {os.strerror(number)}", "change its permissions")
    return disk_error(Path(named) if isinstance(named, str) and named else None, error)
