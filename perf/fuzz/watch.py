"""Watches what a reader does: how long it takes, and whether it touches what it must not."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["SECONDS", "Hang", "Touched", "watched"]

SECONDS = 10
"""The most processor time of a case."""
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
FORBIDDEN = ("pickle.find_class", "socket.connect", "subprocess.Popen", "os.system", "os.exec")
CHANGES = ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate")
OWN = ("/dev/null", "template_worker")
"""What edgewright itself may use: its process for chat templates."""


class Hang(BaseException):
    """A reader took too long. It is no `Exception`, so that no reader can swallow it."""


class Touched(BaseException):
    """A reader did something that reading a file never needs."""


class _Watch:
    """The folder of the current case; None: nobody is watched."""

    def __init__(self) -> None:
        self.folder: str | None = None
        self.seen: list[str] = []
        self.installed = False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """See `sys.addaudithook`."""
        if self.folder is None:
            return
        if event in FORBIDDEN:
            self._note(event, str(arguments))
            return
        flags = arguments[2] if event == "open" else 0
        if event in CHANGES or (isinstance(flags, int) and flags & WRITING):
            self._outside(event, arguments[0])

    def _outside(self, event: str, path: Any) -> None:
        if isinstance(path, str | bytes | os.PathLike):
            name = os.path.abspath(os.fsdecode(path))
            if not name.startswith(self.folder or ""):
                self._note(event, name)

    def _note(self, event: str, what: str) -> None:
        if not any(own in what for own in OWN):
            self.seen.append(f"{event} {what[:200]}")


_watch = _Watch()


@contextmanager
def watched(folder: Path) -> Iterator[None]:
    """Watch what happens in this block.

    Raises:
        Hang: it took more than `SECONDS` of processor time.
        Touched: it wrote outside of the folder, or started something.
    """
    if not _watch.installed:
        sys.addaudithook(_watch)
        _watch.installed = True

    def stop(*_: object) -> None:
        raise Hang(f"more than {SECONDS} s")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    _watch.seen.clear()
    _watch.folder = str(folder.resolve())
    try:
        yield
    finally:
        _watch.folder = None
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
        if _watch.seen:  # says more than the error that it may have led to
            raise Touched(_watch.seen[0])
