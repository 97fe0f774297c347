"""Topics of options, by which help pages are ordered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["COMMON", "EXPERT", "TERMINAL", "Panels", "panel_of"]

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


OTHER = Panels("More options")
"""Of a model that does not say where its fields stand."""


def panel_of(model: Any, field: str) -> str:
    """The title above a field on a help page, as the class says that declares it.

    Args:
        model: a pydantic model.
        field: one of its fields.
    """
    *_, owner = (base for base in model.__mro__ if field in getattr(base, "model_fields", ()))
    panels: Panels = getattr(owner, "panels", OTHER)
    return panels.of(field)
