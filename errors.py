"""Errors with one clear message, a hint that says what to type, and an exit code for scripts."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = [
    "EdgewrightError",
    "GateFailed",
    "NoSpace",
    "NotWritten",
    "ParityFailed",
    "Refused",
    "UsageError",
    "nearest",
    "suggestion",
]


def nearest(name: str, known: Iterable[str], likeness: float = 0.6) -> str:
    """The known name that a wrong one is most like; empty if there is none.

    Args:
        name: what was given.
        known: what could be given.
        likeness: from 0 to 1: how like it a name must be.
    """
    import difflib  # late: only for a message

    return next(iter(difflib.get_close_matches(name.lower(), list(known), 1, likeness)), "")


def suggestion(name: str, known: Iterable[str], likeness: float = 0.6) -> str:
    """Begins a hint: `did you mean gptq? `; empty if no known name is like it. See `nearest`."""
    near = nearest(name, known, likeness)
    return near and f"did you mean {near}? "


class EdgewrightError(Exception):
    """Something went wrong that one message can explain.

    Args:
        message: what happened, where, and why it matters.
        hint: what to type or change; printed under the message.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(EdgewrightError):
    """The command line, the recipe or an input is wrong."""

    exit_code = 2


class Refused(EdgewrightError):
    """What was asked for cannot work, by a plan, a rule of the target, or a limit of edgewright."""

    exit_code = 3


class ParityFailed(EdgewrightError):
    """An artifact does not compute what its checkpoint computes."""

    exit_code = 4


class GateFailed(EdgewrightError):
    """A candidate is worse than its baseline by more than the policy allows."""

    exit_code = 5


class NotWritten(EdgewrightError):
    """The file system refused a write. That says nothing about the input or the options."""


class NoSpace(NotWritten, Refused):
    """The disk is full, or a quota or a limit on the size of files is reached."""

    exit_code = 3
