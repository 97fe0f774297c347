"""What a file system refuses, as one clear message; and room on a disk, known before the work.

All writes go through `writing`, and all checks of free space through `require_space`. Libraries
report a full disk in their own ways: the kernel's number is in the text of an error of safetensors
and SQLite, and missing in those of numpy and torch. All of them are known here, and only here.
Imports no torch, which reports do not need.
"""

from __future__ import annotations

import errno
import os
import re
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import EdgewrightError, NoSpace, NotWritten

__all__ = ["disk_error", "is_full", "refusal_of", "require_space", "writing"]

SHORT = -1
"""In place of an errno: less was written than given, and the reason is not known."""
ADVICE = {
    errno.ENOSPC: "free disk space or choose another --out; nothing was left half-written",
    errno.EDQUOT: "free disk space or ask for a larger quota; nothing was left half-written",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f), or choose another file system",
    SHORT: "free disk space or choose another --out; nothing was left half-written",
    errno.EROFS: "choose a place that can be written",
    errno.EACCES: "choose a place that can be written, or change its permissions",
    errno.EPERM: "choose a place that can be written, or change its permissions",
    errno.EMFILE: "raise the limit on open files (ulimit -n 4096) and run it again",
    errno.ENFILE: "close other programs: all open files of the machine are in use",
    errno.EIO: "the disk may be failing: see the kernel's log, and choose another disk",
}
"""What to do, by errno, for every refusal that has nothing to do with what was asked for."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, SHORT)
TEXTS = (
    (re.compile(r"database or disk is full"), errno.ENOSPC),
    (re.compile(r"readonly database"), errno.EROFS),
    (re.compile(r"unable to open database file"), errno.EACCES),
    (re.compile(r"disk I/O error"), errno.EIO),
    (re.compile(r"requested and \d+ written"), SHORT),
    (re.compile(r"PytorchStreamWriter failed|inline_container\.cc.*unexpected pos"), SHORT),
)
"""What libraries say instead of an errno: SQLite, numpy, torch."""
OS_ERROR = re.compile(r"\(os error (\d+)\)|\[Errno (\d+)\]")
"""An errno as Rust (safetensors, tokenizers) writes it, and Python (shutil, of several files)."""


def free_bytes(place: Path) -> int:
    """Bytes that this user can still write at a place, which need not exist."""
    there = next(p for p in (place, *place.absolute().parents) if p.is_dir())
    return shutil.disk_usage(there).free


def size_text(count: float) -> str:
    """A number of bytes for people."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} bytes"


def require_space(place: Path, needed: float, what: str = "", least: float = 1.0) -> None:
    """Stop before the work if a disk has too little room for its result.

    Args:
        place: what will be written.
        needed: bytes that it will take.
        what: what takes them, for the message.
        least: share of these bytes that it will take in any case, where they are estimated.

    Raises:
        NoSpace: with the bytes needed and free.
    """
    if needed * least > free_bytes(place):
        error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise disk_error(place, error, needed, what)


@contextmanager
def writing(place: Path, needed: float | None = None, *, whole: bool = False) -> Iterator[None]:
    """Turn what the file system refuses within the block into one message.

    Args:
        place: what is written.
        needed: bytes that it takes, if known.
        whole: name this place also where a file within it could not be written, because the file
            is one of a temporary directory.

    Raises:
        NoSpace: the disk is full.
        NotWritten: the place cannot be written.
    """
    try:
        yield
    except NotWritten as error:
        if not whole or error.__cause__ is None:  # without a cause: found before the work
            raise
        raise disk_error(place, error.__cause__, needed) from error.__cause__
    except EdgewrightError:
        raise
    except Exception as error:
        refusal = refusal_of(error)
        if refusal is None and not isinstance(error, OSError):
            raise
        raise disk_error(place, error, needed) from error


def is_full(error: BaseException) -> bool:
    """Whether there was no room for what was to be written."""
    return refusal_of(error) in FULL


def refusal_of(error: BaseException) -> int | None:
    """The errno with which a file system refused a write, or `SHORT`; None: it did not."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in ADVICE:
            return seen.errno
        text = str(seen)
        if (found := OS_ERROR.search(text)) and (number := int(found[1] or found[2])) in ADVICE:
            return number
        for pattern, number in TEXTS:
            if pattern.search(text):
                return errno.EFBIG if number == errno.EIO and _files_are_limited() else number
        seen = seen.__cause__ or seen.__context__
    return None


def _files_are_limited() -> bool:
    """Whether a limit on the size of files is set. SQLite calls that an I/O error."""
    return resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY


def disk_error(
    place: Path | None, error: BaseException, needed: float | None = None, what: str = ""
) -> NotWritten:
    """The error for a place that could not be written.

    A full disk is `Refused`, as a plan would have refused it.

    Args:
        place: what was written; None: it is not known.
        error: what went wrong.
        needed: bytes that it takes, if known.
        what: what takes them.
    """
    number = refusal_of(error)
    reason = os.strerror(number) if number and number > 0 else ""
    if number == SHORT:
        reason = "the disk is full, or a quota or a limit on the size of files is reached"
    reason = reason or getattr(error, "strerror", None) or str(error) or type(error).__name__
    name = place or "a file in the working directory or in the directory for temporary files"
    if number not in FULL:
        hint = ADVICE.get(number or 0, "choose another place")
        return NotWritten(f"{name}: could not be written: {reason}", hint)
    room = f"{size_text(free_bytes(place or Path()))} free"
    if needed is not None:
        room = f"{size_text(needed)} needed{f' for {what}' if what else ''}, {room}"
    return NoSpace(f"{name}: could not be written: {reason} ({room})", ADVICE[number or 0])
