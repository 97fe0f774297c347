"""A range of rows, written `[START:STOP]` behind a name, with the meaning of a Python slice."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from ..errors import UsageError
from .kinds import RANGE

__all__ = ["ALL_ROWS", "RowRange", "split_range"]

T = TypeVar("T")
SUFFIX = re.compile(r"(.*)\[([^\[\]]*)\]", re.DOTALL)
INDICES = re.compile(r"\s*(-?[0-9]{1,15})?\s*:\s*(-?[0-9]{1,15})?\s*")


@dataclass(frozen=True)
class RowRange:
    """Rows from `start` up to `stop`, without it. Negative numbers count from the end.

    Attributes:
        start: the first row, counted from 0; None: the first of all.
        stop: the row after the last; None: there is none.
    """

    start: int | None = None
    stop: int | None = None

    def __str__(self) -> str:
        """The range as it is written; nothing if it has all rows."""
        start, stop = ("" if index is None else index for index in (self.start, self.stop))
        return f"[{start}:{stop}]" if self != ALL_ROWS else ""

    def indices(self, count: int) -> range:
        """The rows that are chosen of `count` rows."""
        return range(count)[self.start : self.stop]

    def shared(self, other: RowRange, count: int) -> range:
        """The rows of `count` rows that both ranges choose."""
        mine = self.indices(count)
        theirs = other.indices(count)
        return range(max(mine.start, theirs.start), min(mine.stop, theirs.stop))

    def bounds(self, read: Callable[[], Iterable[Any]]) -> tuple[int, int | None]:
        """The first row, counted from 0, and the row after the last; None: there is none.

        Args:
            read: begins to read the rows. They are counted if a number is negative.
        """
        start = self.start or 0
        if start >= 0 and (self.stop or 0) >= 0:
            return start, self.stop
        chosen = self.indices(_count(read))
        return chosen.start, chosen.stop

    def choose(self, read: Callable[[], Iterable[T]], name: str) -> Iterator[T]:
        """Yield the chosen ones of the rows that `read` reads, without keeping them in memory.

        A negative number needs the count of rows, for which all are read once more.

        Args:
            read: begins to read the rows.
            name: of the data, for messages.

        Raises:
            UsageError: there are none.
        """
        start, stop = self.bounds(read)
        found = False
        for row in itertools.islice(read(), start, stop):
            found = True
            yield row
        if not found:
            raise _no_rows(name, _count(read))


ALL_ROWS = RowRange()


def _count(read: Callable[[], Iterable[T]]) -> int:
    return sum(1 for _ in read())


def _no_rows(name: str, count: int) -> UsageError:
    if not count:
        return UsageError(f"{name}: no rows", "give a file with at least one row")
    return UsageError(
        f"{name}: no rows are in this range; the data has {count}",
        f"START must be before STOP, and one of the rows 0 to {count - 1}",
    )


def split_range(rest: str, text: str) -> tuple[str, RowRange]:
    """Split a name from the range of rows behind it. Without one, all rows are meant.

    Args:
        rest: the name, and perhaps a range.
        text: all that the user wrote, for messages.

    Raises:
        UsageError: there are brackets at the end, but no range is in them.
    """
    found = SUFFIX.fullmatch(rest)
    if not found:
        return rest, ALL_ROWS
    name, inside = found.groups()
    numbers = INDICES.fullmatch(inside)
    if not numbers:
        raise UsageError(
            f"{text}: `[{inside}]` is no range of rows",
            f"write {RANGE}, for example [:1000] for the first 1000 rows, [-1000:] for the last",
        )
    start, stop = (None if number is None else int(number) for number in numbers.groups())
    return name, RowRange(start or None, stop)
