"""Parse and check the tasks and the texts of a measurement before any work."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar

from ..errors import UsageError

__all__ = ["check_labels", "parse_inputs"]


class Input(Protocol):
    """A task, or a source of text."""

    @property
    def label(self) -> str:
        """Its name in metrics."""
        ...

    def check(self) -> None:
        """Check what parsing does not read."""
        ...


Kind = TypeVar("Kind", bound=Input)


def parse_inputs(names: Sequence[str], parse: Callable[[str], Kind]) -> list[Kind]:
    """Parse the names of one kind of input, and check each.

    Raises:
        UsageError: one cannot be used, or two have the same name in metrics.
    """
    check_labels(names, parse)
    found = [parse(name) for name in names]
    for one in found:
        one.check()
    return found


def check_labels(names: Iterable[str], parse: Callable[[str], Input]) -> None:
    """Accept inputs if no two have the same name in metrics.

    Raises:
        UsageError: two have, so the result of one would replace that of the other.
    """
    by_label: dict[str, str] = {}
    for name in names:
        label = parse(name).label
        if label in by_label:
            raise UsageError(
                f"{by_label[label]} and {name}: both are called {label} in metrics",
                "measure them in two runs, or name one by a link to its file with another name",
            )
        by_label[label] = name
