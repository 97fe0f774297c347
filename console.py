"""Progress and messages, always on standard error; standard output is for results."""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from .errors import EdgewrightError
from .redaction import redacted

__all__ = [
    "IS_MAIN",
    "LONGEST",
    "Bar",
    "complain",
    "console",
    "print_traceback",
    "printable",
    "progress",
    "visible",
    "width_of",
]

UNEXPECTED = "run it again with --debug for the traceback; finished steps are kept"
LONGEST = 10_000
"""Characters of a message."""
NARROWEST = 20
"""Columns that a table needs at least."""


def width_of(stream: TextIO, width: int) -> int | None:
    """Columns of a stream: those of COLUMNS, else of the terminal (None: rich asks), else `width`.

    A number in COLUMNS on which no table can be printed, such as 0, does not count.
    """
    asked = os.environ.get("COLUMNS", "")
    if asked.isdigit():
        return int(asked) if int(asked) >= NARROWEST else width
    return None if stream.isatty() else width


for _stream in ("stdout", "stderr"):  # None if the shell closed it, as in `edgewright targets >&-`
    if getattr(sys, _stream) is None:
        setattr(sys, _stream, open(os.devnull, "w"))  # noqa: SIM115 - as long as the process
WIDTH = width_of(sys.stderr, 200)
UNSEEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]"
)
"""Control characters, changes of direction, separators of lines, and halves of characters."""
IS_MAIN = os.environ.get("RANK", "0") == "0"
"""Whether this process prints and writes files; of several, only the one of rank 0 does."""
# A Jupyter kernel claims to be a terminal; in a notebook, progress is a few lines, as in a CI log.
console = Console(
    stderr=True,
    width=WIDTH,
    quiet=not IS_MAIN,
    emoji=False,
    force_terminal=False if "ipykernel" in sys.modules else None,
    force_jupyter=False,
)


class Bar:
    """A progress bar. In a CI log, which is no terminal, it prints one line per quarter."""

    def __init__(self, inner: Progress, label: str, total: int) -> None:
        self._inner = inner
        self._label = label
        self._total = max(total, 1)
        self._done = 0
        self._task = inner.add_task(label, total=total)

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Advance by `steps`, with a short note (a loss, a rate) behind the label."""
        before = self._done * 4 // self._total
        self._done += steps
        if self._inner.disable:
            if self._done * 4 // self._total > before:
                console.print(
                    f"  {self._label}: {self._done}/{self._total} {note}".rstrip(), highlight=False
                )
        else:
            self._inner.update(
                self._task, advance=steps, description=f"{self._label} {note}".rstrip()
            )


@contextmanager
def progress(label: str, total: int) -> Iterator[Bar]:
    """A bar with count, elapsed time and an estimate of the remaining time."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as inner:
        yield Bar(inner, label, total)


def visible(text: str) -> str:
    """A text without the characters that a terminal or a page would obey; line breaks stay.

    Names, files and devices may contain them. An escape sequence can retype a whole screen, and a
    change of direction can disguise a name.
    """
    return UNSEEN.sub("\N{REPLACEMENT CHARACTER}", text)


def printable(text: str) -> str:
    """A text that may quote a file of others, fit for a terminal and a log.

    It has no secrets and no character that a terminal would obey, and what is too long is cut.
    """
    text = visible(redacted(text))
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]} [...] {text[-LONGEST // 2 :]}"
    return text


def print_traceback(kind: object, error: BaseException, trace: object = None) -> None:
    """Print the traceback of an error without secrets; for `sys.excepthook`."""
    text = redacted("".join(traceback.format_exception(error)))
    console.print(visible(text), highlight=False, markup=False, soft_wrap=True, end="")


def complain(error: BaseException) -> int:
    """Print an error as one message with its hint, and return its exit code."""
    known = isinstance(error, EdgewrightError)
    if known and error.exit_code != 1 and not IS_MAIN:  # the main process says the same
        return error.exit_code
    message = "; ".join([str(error) or type(error).__name__, *getattr(error, "__notes__", ())])
    output = console if IS_MAIN else Console(stderr=True, width=WIDTH, emoji=False)
    who = "" if IS_MAIN else f"process {os.environ['RANK']}: "
    what = printable(message if known else f"{type(error).__name__}: {message}")
    output.print(f"[bold red]error:[/] {who}{escape(what)}", highlight=False, soft_wrap=True)
    hint = printable(error.hint if known else UNEXPECTED)
    if hint:
        output.print(f"  [dim]->[/] {escape(hint)}", highlight=False, soft_wrap=True)
    return error.exit_code if known else 1
