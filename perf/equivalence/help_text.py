"""Reads a `--help` text: names, metavars and defaults are values, descriptions are words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

SECTION = re.compile(r"(\S.*):$")
BRACKET = re.compile(r"\s*\[((?:default:|required|env var:|[-\w.]*\s*[<>]=?|[-\w.]+<)[^\[\]]*)\]$")


def parse(lines: Sequence[str]) -> dict[str, Any]:
    """The parts of a help text.

    Returns:
        `usage` (a value), `prose` (all paragraphs), and `options`, `arguments` and `commands`, each
        by name. Every name of an option has an entry of its own.
    """
    found: dict[str, Any] = {"options": {}, "arguments": {}, "commands": {}}
    usage, prose = [], []
    section = ""
    entries: list[list[str]] = []
    for line in [*lines, "End:"]:
        head = SECTION.fullmatch(line.rstrip()) if not line.startswith(("Usage:", " ")) else None
        if head:
            if section:
                _add(found, section, entries)
            section, entries = head[1], []
        elif section and line.startswith("  "):
            if re.match(r"  \S", line):
                entries.append([line.strip()])
            elif entries:
                entries[-1].append(line.strip())
        elif line.strip():
            in_usage = line.startswith("Usage:") or (usage and not prose and line[:6].isspace())
            (usage if in_usage else prose).append(line.strip())
    return {"usage": " ".join(usage), "prose": joined(prose)} | found


def joined(lines: Iterable[str]) -> str:
    """One line of text out of wrapped lines. A line that ends in a hyphen continues the word."""
    text = ""
    for line in lines:
        text += line if not text or re.search(r"\w-$", text) else f" {line}"
    return text


def _add(found: dict[str, Any], section: str, entries: Iterable[list[str]]) -> None:
    """Add the entries of a section. Sections of options can have any title."""
    for lines in entries:
        names, _, first = lines[0].partition("  ")
        text = joined([part for part in (first.strip(), *lines[1:]) if part])
        if names.startswith("-"):
            option, _, metavar = names.partition(" <")
            entry = {"metavar": f"<{metavar}" if metavar else ""} | _described(text)
            found["options"] |= dict.fromkeys(re.split(r"\s*[,/]\s*", option), entry)
        elif section == "Commands":
            found["commands"][names] = {"description": text}
        else:
            found["arguments"][names] = _described(text)


def _described(text: str) -> dict[str, Any]:
    """The description of an option apart from what stands in brackets at its end."""
    return dict(_brackets(text))


def _brackets(text: str) -> Iterator[tuple[str, Any]]:
    while found := BRACKET.search(text):
        text = text[: found.start()]
        for part in found[1].split("; "):
            name, colon, value = part.partition(": ")
            if colon:
                yield name, value.replace(" ", "")
            else:
                yield ("required", True) if part == "required" else ("range", part)
    yield "description", text
