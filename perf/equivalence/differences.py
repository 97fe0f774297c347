"""Differences between two JSON documents, and whether they are values or words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

PROSE_FIELDS = {"notes", "description", "message", "nearest", "reason", "title", "header", "prose"}
"""Fields whose strings are words, even if a string is a single word."""
VALUE_FIELDS = {
    "arguments",
    "classname",
    "command",
    "commands",
    "context",
    "default",
    "l4t",
    "limit",
    "metavar",
    "name",
    "part",
    "range",
    "step",
    "usage",
}
"""Fields whose strings are values, even if they look like sentences."""
NUMBER = re.compile(r"\d+(?:[.,]\d+)*(?:e[-+]?\d+)?")
FACT = re.compile(rf"(?<![\w-])--[a-z][\w-]*|{NUMBER.pattern}")
"""A number or an option in a sentence."""


@dataclass(frozen=True)
class Difference:
    """One difference: its kind, its dotted place, and both sides."""

    kind: str
    place: str
    before: str = ""
    after: str = ""

    @property
    def changes_facts(self) -> bool:
        """Whether the two sentences hold other numbers or options."""
        return Counter(FACT.findall(self.before)) != Counter(FACT.findall(self.after))


def is_prose(text: str, fields: tuple[str, ...]) -> bool:
    """Whether a string is a sentence for people. `fields` are the JSON keys that lead to it."""
    if VALUE_FIELDS & {*fields}:
        return False
    named = [field for field in fields if not field.isdecimal()]
    if named and named[-1] in PROSE_FIELDS:
        return True
    return " " in text.strip() and bool(re.search("[A-Za-z]", text))


def of_strings(
    before: str, after: str, fields: tuple[str, ...], both_prose: bool | None = None
) -> Iterator[Difference]:
    """The difference of two strings: sentences that differ in more than numbers are words."""
    one, other = (" ".join(text.split()) for text in (before, after))
    if both_prose is None:
        both_prose = is_prose(before, fields) and is_prose(after, fields)
        if not both_prose:
            one, other = before, after
    if one == other:
        return
    only_numbers = NUMBER.sub("#", one) == NUMBER.sub("#", other)
    kind = "words" if both_prose and not only_numbers else "values"
    yield Difference(kind, ".".join(fields), one, other)


def of_json(before: Any, after: Any, fields: tuple[str, ...] = ()) -> Iterator[Difference]:
    """All differences of two JSON values. Lists are compared item by item."""
    if isinstance(before, dict) and isinstance(after, dict):
        yield from _of_dicts(before, after, fields)
    elif isinstance(before, list) and isinstance(after, list):
        yield from _of_lists(before, after, fields)
    elif isinstance(before, str) and isinstance(after, str):
        yield from of_strings(before, after, fields)
    elif repr(before) != repr(after):  # 1, 1.0 and True differ; NaN equals NaN
        yield Difference("values", ".".join(fields), repr(before), repr(after))


def _of_dicts(
    before: dict[str, Any], after: dict[str, Any], fields: tuple[str, ...]
) -> Iterator[Difference]:
    for key in before | after:
        path = (*fields, key)
        if key not in after:
            yield Difference("values", ".".join(path), repr(before[key]), "(removed)")
        elif key not in before:
            yield Difference("new", ".".join(path), "", repr(after[key]))
        else:
            yield from of_json(before[key], after[key], path)


def _of_lists(before: list[Any], after: list[Any], fields: tuple[str, ...]) -> Iterator[Difference]:
    if len(before) == len(after):
        for index, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from of_json(one, other, (*fields, str(index)))
        return
    prose = all(isinstance(one, str) and is_prose(one, fields) for one in [*before, *after])
    sides = (" / ".join(map(str, side)) for side in (before, after))
    yield Difference("words" if prose else "values", ".".join(fields), *sides)


def of_names(before: list[str], after: list[str], place: str) -> Iterator[Difference]:
    """Differences of two sets of names: a removed one is a value, an added one is new."""
    for name in sorted({*before} - {*after}):
        yield Difference("values", f"{place}.{name}", name, "(removed)")
    for name in sorted({*after} - {*before}):
        yield Difference("new", f"{place}.{name}", "", name)
