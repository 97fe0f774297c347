"""Topics of options, by which help pages are ordered."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["COMMON", "EXPERT", "TERMINAL", "Panels"]

COMMON = "Common options"
"""What most people need, and what must be given."""
EXPERT = "Expert options"
"""What hardly anybody needs to change."""
TERMINAL = "Help and output"
"""Options that every verb has."""


@dataclass(frozen=True)
class Panels:
    """Where the fields of a model of options stand on a help page; its class variable `panels`.

    Attributes:
        title: the topic of fields that are not named below.
        common: fields that stand first.
        expert: fields that stand last.
    """

    title: str
    common: tuple[str, ...] = ()
    expert: tuple[str, ...] = ()

    def of(self, field: str) -> str:
        """The title above a field."""
        if field in self.common:
            return COMMON
        return EXPERT if field in self.expert else self.title
