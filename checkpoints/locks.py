"""One lock for each output, so that two commands never write to the same place.

The operating system releases a lock (flock) when its process ends, even if it is killed. So a lock
file that a killed command left behind is taken over, whatever process has its number today.

A directory or file that is made and then replaces an older one has its lock beside it
(`.NAME.lock`). A directory that is filled bit by bit, such as that of a run, has it inside
(`.lock`). Whoever takes a lock then looks for other locks: the other kind for the same place, those
of the directories around it, and those inside it. Two commands that start at the same moment may
both be refused, and never both go on.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import fields
from pathlib import Path

from ..console import console
from ..errors import EdgewrightError, UsageError
from .disk import disk_error, refusal_of
from .owner import Owner
from .signals import undisturbed

__all__ = ["SUFFIX", "locked", "resolved", "writer_of"]

SUFFIX = ".lock"
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""What a file system without locks answers."""
LOOKS = 5
"""Times that a lock must be found taken: another command may only be looking at it."""
PAUSE = 0.02
"""Seconds between two looks."""
POLL = 0.5
"""Seconds between two looks of a command that waits."""
_held: ContextVar[frozenset[Path]] = ContextVar("held", default=frozenset())
"""The lock files that the present command holds."""


def resolved(place: Path) -> Path:
    """The absolute path of a place; links are followed but for the last part."""
    return place.resolve() if place.name in ("", "..") else place.parent.resolve() / place.name


@contextmanager
def locked(
    place: Path, *, inside: bool = False, wait: bool = False, command: str = ""
) -> Iterator[None]:
    """Hold the lock of an output. Missing directories above it are made, and removed if unused.

    Args:
        place: the output.
        inside: whether it is a directory that is filled, and not replaced.
        wait: wait until the lock is free; otherwise that is an error.
        command: what was typed, for the messages of others.

    Raises:
        EdgewrightError: another command writes there, around it, or inside it.
        UsageError: no file can be made there.
    """
    real = place.resolve() if inside else resolved(place)
    beside, within = _files_of(real)
    file = within if inside else beside
    made = _make_parents(file.parent, place)
    mine = _LockFile(file, place)
    token = _held.set(_held.get() | {file})
    try:
        mine.take(Owner.me(command), wait=wait)
        if not wait:
            _refuse_others(real, file)
        yield
    finally:
        with undisturbed():
            _held.reset(token)
            mine.release()
            for folder in made:
                with suppress(OSError):  # it is in use
                    folder.rmdir()


def writer_of(place: Path) -> Owner | None:
    """Who is replacing a file or directory; None: nobody, or this command."""
    file = _files_of(place.resolve())[0]
    if file in _held.get() or not _is_taken(file):
        return None
    return _owner(file) or Owner.me("edgewright")


def _files_of(place: Path) -> tuple[Path, Path]:
    return place.parent / f".{place.name}{SUFFIX}", place / SUFFIX


def _make_parents(folder: Path, place: Path) -> list[Path]:
    """Make a directory and what is missing above it; returns what was made, innermost first."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _impossible(place, error) from error
    return missing


class _LockFile:
    """A lock file that this process takes and releases.

    Args:
        file: its path.
        place: the output, for messages.
    """

    def __init__(self, file: Path, place: Path) -> None:
        self.file = file
        self.place = place
        self.handle: int | None = None

    def take(self, me: Owner, *, wait: bool) -> None:
        """Lock the file and write the owner into it.

        Raises:
            EdgewrightError: another command has the lock.
            UsageError: no file can be made there, or another's is there.
        """
        looks = 0
        told = False
        while not self._tried(me):
            looks += 1
            if looks < LOOKS:
                time.sleep(PAUSE)
            elif not wait:
                raise _busy(self.place, self.file, _owner(self.file))
            else:
                if not told:
                    by = _owner(self.file)
                    console.print(f"{self.place}: waiting for {by}", highlight=False, markup=False)
                    told = True
                time.sleep(POLL)

    def _tried(self, me: Owner) -> bool:
        """Take the lock; False: somebody else has it, or just removed the file."""
        with undisturbed():
            handle = _open(self.file, self.place)
            try:
                if not _lock(handle, self.file) or not _is_file(handle, self.file):
                    return False
                _refuse_foreign(handle, self.file, self.place)
                self.handle = handle
                os.ftruncate(handle, 0)
                os.pwrite(handle, me.text(), 0)
            except OSError as error:
                raise _impossible(self.place, error) from error
            finally:
                if self.handle is None:
                    os.close(handle)
            return True

    def release(self) -> None:
        """Remove the file and give up the lock, if this process has it."""
        if self.handle is None:
            return
        with suppress(OSError):
            if _is_file(self.handle, self.file):
                self.file.unlink()
        os.close(self.handle)
        self.handle = None


def _open(file: Path, place: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    for look in range(LOOKS):
        try:
            return os.open(file, flags, 0o666)
        except OSError as error:
            # Another command may just have removed the directory that it had made.
            if isinstance(error, FileNotFoundError) and look < LOOKS - 1:
                _make_parents(file.parent, place)
                continue
            if _is_taken(file):  # by another user
                raise _busy(place, file, _owner(file)) from error
            raise _impossible(place, error) from error
    raise AssertionError("unreachable")


def _lock(handle: int, file: Path) -> bool:
    """Lock an open file; False: somebody else has the lock."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        console.print(
            f"warning: {file.parent}: this file system has no locks, so nothing keeps a second "
            "command from writing there",
            highlight=False,
            markup=False,
        )
    return True


def _is_file(handle: int, file: Path) -> bool:
    """Whether the open file still has its name: the last owner removes it."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(file, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _was_ours(text: bytes) -> bool:
    """Whether most names of a lock file's fields stand in it; a damaged one may lack some."""
    names = ("edgewright lock", *(one.name for one in fields(Owner)))
    return sum(f'"{name}"'.encode() in text for name in names) >= len(names) - 1


def _refuse_foreign(handle: int, file: Path, place: Path) -> None:
    """Refuse a lock file of another machine, and a file that is no lock file of edgewright."""
    text = os.pread(handle, 1 << 16, 0)
    if not text:
        return
    owner = Owner.parse(text)
    if owner is None and _was_ours(text):
        return  # damaged, and its owner is gone: the lock was free
    if owner is None:
        raise UsageError(
            f"{file}: not a lock file of edgewright, and one must be made there",
            "move it away, or choose another --out",
        )
    if owner.elsewhere:
        raise _busy(place, file, owner)


def _refuse_others(place: Path, mine: Path) -> None:
    """Refuse a place that another command writes to, around it or inside it.

    Raises:
        EdgewrightError: naming the other place and its owner.
    """
    around = [file for one in (place, *place.parents) for file in _files_of(one)]
    inside = place.rglob(f".*{SUFFIX[1:]}") if place.is_dir() else ()
    for file in (*around, *inside):
        if file != mine and file not in _held.get() and _is_taken(file):
            other = file.parent if file.name == SUFFIX else _place_of(file)
            raise _busy(other, file, _owner(file))


def _place_of(file: Path) -> Path:
    return file.with_name(file.name[1 : -len(SUFFIX)])


def _is_taken(file: Path) -> bool:
    """Whether somebody has the lock of this file."""
    try:
        handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(handle)
    return False


def _owner(file: Path) -> Owner | None:
    try:
        return Owner.parse(file.read_bytes())
    except OSError:
        return None


def _busy(place: Path, file: Path, owner: Owner | None) -> EdgewrightError:
    by = f": {owner}" if owner else ""
    hint = "wait until it has ended, or choose another --out"
    if owner and owner.elsewhere:
        hint += f"; if it has ended already (that cannot be seen from here), remove {file}"
    return EdgewrightError(f"{place}: another edgewright run is writing there{by}", hint)


def _impossible(place: Path, error: OSError) -> EdgewrightError:
    if refusal_of(error) not in (None, errno.EROFS, errno.EACCES, errno.EPERM):
        return disk_error(place, error)
    return UsageError(
        f"{place}: cannot be written: {error.strerror or error}",
        "choose another place, or give this one the rights to write",
    )
