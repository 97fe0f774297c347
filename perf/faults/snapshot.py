"""What a command left: compared byte for byte, or in all but times where times are in it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["differences", "merged", "snapshot"]

TIMES = re.compile(r"seconds|_ms\b|tok_s|rss|created|written_at|started|energy|memory|since")
NUMBER = re.compile(r"\d+(?:[.:,]\d+)*")
Snapshot = dict[str, dict[str, Any]]
"""By path: `bytes`, the hash of the file; `text`, that of its text without numbers; `timed`, if
that text has the time of writing; `leaves`, the values of a JSON file by their place."""


def snapshot(folder: Path, ignored: Sequence[str] = ()) -> Snapshot:
    """What is in a directory.

    Args:
        folder: the directory.
        ignored: names in it that are left out.
    """
    found: Snapshot = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name.split("/")[0] in ignored:
            continue
        if path.is_symlink():
            found[name] = {"bytes": f"link to {path.readlink()}"}
        elif path.is_dir():
            found[f"{name}/"] = {"bytes": "directory"}
        else:
            found[name] = _file(path)
    return found


def _file(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    entry: dict[str, Any] = {"bytes": hashlib.sha256(content).hexdigest()}
    if path.suffix in (".json", ".jsonl", ".html", ".md", ".xml"):
        text = content.decode(errors="replace")
        entry["timed"] = "timestamp=" in text
        entry["text"] = hashlib.sha256(NUMBER.sub("0", text).encode()).hexdigest()
        if path.suffix == ".json":
            try:
                entry["leaves"] = dict(_leaves(json.loads(text)))
            except ValueError:
                entry["leaves"] = None
    return entry


def _leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, f"{place}/{key}")
    elif isinstance(value, list):
        yield f"{place}#", len(value)
        for number, inner in enumerate(value):
            yield from _leaves(inner, f"{place}/{number}")
    else:
        yield place, value


def merged(first: Snapshot, second: Snapshot) -> Snapshot:
    """The reference of two undisturbed runs: what differs between them is measured, not made.

    Raises:
        ValueError: the runs left other files.
    """
    if first.keys() != second.keys():
        raise ValueError(f"two undisturbed runs differ in {first.keys() ^ second.keys()}")
    reference: Snapshot = {}
    for name, one in first.items():
        other = second[name]
        if one["bytes"] == other["bytes"] and not _has_times(one):
            reference[name] = {"bytes": one["bytes"]}
        elif one.get("leaves") and other.get("leaves"):
            same = {
                place: value
                for place, value in one["leaves"].items()
                if other["leaves"].get(place, ...) == value and not TIMES.search(place)
            }
            reference[name] = {"leaves": same}
        elif one.get("text") and one["text"] == other.get("text"):
            reference[name] = {"text": one["text"]}
        else:
            reference[name] = {}
    return reference


def _has_times(entry: Mapping[str, Any]) -> bool:
    return entry.get("timed", False) or any(map(TIMES.search, entry.get("leaves") or ()))


def differences(reference: Snapshot, found: Snapshot) -> list[str]:
    """In what a result differs from the reference, in words; empty: in nothing."""
    missing = [f"{name} is missing" for name in reference.keys() - found.keys()]
    extra = [f"{name} is left over" for name in found.keys() - reference.keys()]
    other = [
        f"{name} differs"
        for name, entry in reference.items()
        if name in found and not _matches(entry, found[name])
    ]
    return sorted(missing + extra + other)


def _matches(reference: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    if "leaves" in reference:
        leaves = found.get("leaves") or {}
        return all(leaves.get(place, ...) == value for place, value in reference["leaves"].items())
    return all(found.get(kind) == value for kind, value in reference.items())
