"""What a verb does when it is stopped by Ctrl-C or SIGTERM: it cleans up and says what is kept."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

import typer

from ..console import console

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

__all__ = ["INTERRUPTED", "TERMINATED", "Terminated", "interruption", "sigterm_raises"]

INTERRUPTED = 130
"""Exit code after Ctrl-C, as a shell gives it."""
TERMINATED = 143
"""Exit code after SIGTERM, likewise."""
SOON = 0.05
"""Seconds until a lost signal is sent again."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, in the form that every library handles as Ctrl-C."""


@contextmanager
def interruption(*, resumable: bool) -> Iterator[None]:
    """End the block on Ctrl-C (exit code 130) or SIGTERM (143) with one sentence.

    Args:
        resumable: whether the same command resumes finished work.
    """
    advice = "run the same command again, it starts afresh"
    if resumable:
        advice = "what is finished is kept, run the same command again to resume"
    with sigterm_raises():
        try:
            yield
        except KeyboardInterrupt as stop:
            terminated = isinstance(stop, Terminated)
            what = "terminated" if terminated else "interrupted"
            console.print(f"{what}; {advice}", highlight=False)
            raise typer.Exit(TERMINATED if terminated else INTERRUPTED) from stop


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """Let SIGTERM raise `Terminated`, so that work in progress is cleaned up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stopped(number: int, frame: FrameType | None) -> NoReturn:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stopped)
    hook = sys.unraisablehook

    def again(lost: UnraisableHookArgs) -> None:
        """Send a signal again whose exception was raised, and lost, in a finalizer."""
        if not isinstance(lost.exc_value, KeyboardInterrupt):
            return hook(lost)
        number = signal.SIGTERM if isinstance(lost.exc_value, Terminated) else signal.SIGINT
        threading.Timer(SOON, os.kill, (os.getpid(), number)).start()
        return None

    sys.unraisablehook = again
    try:
        yield
    finally:
        sys.unraisablehook = hook
        signal.signal(signal.SIGTERM, before)
