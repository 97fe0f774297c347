"""Progress and messages, always on standard error; standard output is for results."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

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

__all__ = ["IS_MAIN", "Bar", "complain", "console", "printable", "progress"]

UNEXPECTED = "run it again with --debug for the traceback; finished steps are kept"
SECRET_NAME = re.compile("TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|_KEY$|_PAT$", re.IGNORECASE)
"""Names of environment variables whose values are secret."""
SHORTEST_SECRET = 8
CREDENTIALS = re.compile(r"(://)[^\s/@]+(?=@)|\b(hf_)[A-Za-z0-9]{16,}")
"""A user with a password in an address, and a token of the Hugging Face hub."""
LONGEST = 10_000
"""Characters of a message."""
WIDTH = None if sys.stderr.isatty() else 200
IS_MAIN = os.environ.get("RANK", "0") == "0"
"""Whether this process prints and writes files; of several, only the one of rank 0 does."""
console = Console(stderr=True, width=WIDTH, quiet=not IS_MAIN)


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


def complain(error: BaseException) -> int:
    """Print an error as one message with its hint, and return its exit code."""
    known = isinstance(error, EdgewrightError)
    if known and error.exit_code != 1 and not IS_MAIN:  # the main process says the same
        return error.exit_code
    message = "; ".join([str(error) or type(error).__name__, *getattr(error, "__notes__", ())])
    output = console if IS_MAIN else Console(stderr=True, width=WIDTH)
    who = "" if IS_MAIN else f"process {os.environ['RANK']}: "
    what = printable(message if known else f"{type(error).__name__}: {message}")
    output.print(f"[bold red]error:[/] {who}{escape(what)}", highlight=False, soft_wrap=True)
    hint = printable(error.hint if known else UNEXPECTED)
    if hint:
        output.print(f"  [dim]->[/] {escape(hint)}", highlight=False, soft_wrap=True)
    return error.exit_code if known else 1


def printable(text: str) -> str:
    """A text that may quote a file of others, fit for a terminal and a log.

    Secrets are left out, control characters are written as escapes, and what is too long is cut.
    """
    for name, value in os.environ.items():
        if len(value) >= SHORTEST_SECRET and SECRET_NAME.search(name):
            text = text.replace(value, "***")
    text = CREDENTIALS.sub(lambda found: f"{found[1] or found[2]}***", text)
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]} [...] {text[-LONGEST // 2 :]}"
    return "".join(one if one.isprintable() or one in "\n\t" else ascii(one)[1:-1] for one in text)
