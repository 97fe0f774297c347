"""Progress and messages for people, always on standard error; standard output is left to results."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

__all__ = ["Bar", "console", "progress"]

console = Console(stderr=True)


class Bar:
    """One running progress bar; where standard error is no terminal (a CI log), a line at every tenth of the way."""

    def __init__(self, inner: Progress, label: str, total: int) -> None:
        self._inner, self._label, self._total, self._done = inner, label, max(total, 1), 0
        self._task = inner.add_task(label, total=total)

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Move on by `steps`, with a short note (a loss, a rate) behind the label."""
        before, self._done = self._done * 10 // self._total, self._done + steps
        if self._inner.disable:
            if self._done * 10 // self._total > before:
                console.print(f"{self._label}: {self._done}/{self._total} {note}".rstrip(), highlight=False)
        else:
            self._inner.update(self._task, advance=steps, description=f"{self._label} {note}".rstrip())


@contextmanager
def progress(label: str, total: int) -> Iterator[Bar]:
    """A bar with count, elapsed time and an estimate of what is left."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as inner:
        yield Bar(inner, label, total)
