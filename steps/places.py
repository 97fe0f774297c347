"""Markers of the options that name a place on disk, and the places that given options name.

An option that reads a file or directory is marked with `Reads`, one that writes with `Writes`. So
one function (`commands/places.py`) checks and locks the places of all verbs; see
`checkpoints/outputs.py` for the rules.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ..checkpoints.outputs import Kind

__all__ = ["Named", "Reads", "Writes", "named_places"]


@dataclass(frozen=True)
class Reads:
    """Marks an option that names models, data or files to read; also inside other words.

    Attributes:
        recipe: it names a recipe, which names more.
    """

    recipe: bool = False


@dataclass(frozen=True)
class Writes:
    """Marks an option that names a place to write.

    Attributes:
        kind: what is written there, which decides what may be there already.
        marks: texts that a file of edgewright contains; without them it is somebody else's.
        beside: endings of the files that are written beside it, in place of its own, and their
            marks.
        only_with: field beside it that must be set for it to be written; else it is read.
        not_with: field beside it with which nothing is written.
    """

    kind: Kind
    marks: tuple[str, ...] = ()
    beside: tuple[tuple[str, tuple[str, ...]], ...] = ()
    only_with: str = ""
    not_with: str = ""


@dataclass(frozen=True)
class Named:
    """A place that options name.

    Attributes:
        path: of fields, from the outside in.
        text: what was given.
        marker: of the field.
    """

    path: tuple[str, ...]
    text: str
    marker: Reads | Writes


def named_places(options: BaseModel, path: tuple[str, ...] = ()) -> Iterator[Named]:
    """The places that a model of options names, also in nested models.

    Args:
        options: any pydantic model.
        path: where it is in another one.
    """
    for name, field in type(options).model_fields.items():
        value = getattr(options, name)
        place = (*path, name)
        marker = next((one for one in field.metadata if isinstance(one, Reads | Writes)), None)
        if marker is None:
            for model in _models(value):
                yield from named_places(model, place)
            continue
        if isinstance(marker, Writes):
            if marker.not_with and getattr(options, marker.not_with):
                continue
            if marker.only_with and not getattr(options, marker.only_with):
                marker = Reads()
        for text in texts_in(value):
            yield Named(place, text, marker)
        for model in _models(value):  # a student may be a name, or the options to make it
            yield from named_places(model, place)


def _models(value: Any) -> Iterator[BaseModel]:
    if isinstance(value, BaseModel):
        yield value
    elif isinstance(value, tuple | list):
        for one in value:
            yield from _models(one)


def texts_in(value: Any) -> Iterator[str]:
    """All texts and paths in an option's value."""
    if isinstance(value, str | Path):
        yield str(value)
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from texts_in(one)
    elif isinstance(value, tuple | list):
        for one in value:
            yield from texts_in(one)
