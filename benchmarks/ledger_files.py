"""How the entries of a ledger are sealed, and the one reader of `ledger.json`.

An entry has two checksums: of what its step made, and of what was measured. So an edited figure is
measured again, and the step is not made again. The whole file has one too, for those who only show
what is in it. Ledgers of older versions have none of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..checkpoints.hashing import file_hash
from ..checkpoints.sealed import CHECK, Damaged, digest, intact, load_json, seal
from ..errors import UsageError

__all__ = [
    "AGAIN",
    "MEASURED",
    "SCHEMA",
    "changed_samples",
    "is_made_here",
    "is_measured_here",
    "load_ledger",
    "read_ledger",
    "seal_entry",
    "seal_ledger",
]

SCHEMA = 1
AGAIN = "run the recipe again (finished steps are kept), or with --fresh"
MEASURED = ("metrics", "context", "measurement_notes", "samples", "sample_files", "measured")
"""Keys of an entry that a measurement fills in."""


def seal_entry(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The entry of a step with its checksums."""
    plain = seal(entry)  # as JSON holds it
    return {**plain, CHECK: _checks(plain)}


def _checks(entry: Mapping[str, Any]) -> dict[str, str]:
    parts: dict[str, dict[str, Any]] = {"made": {}, "measured": {}}
    for key, value in entry.items():
        if key != CHECK:
            parts["measured" if key in MEASURED else "made"][key] = value
    return {name: digest(part)[:32] for name, part in parts.items()}


def is_made_here(entry: Any) -> bool:
    """Whether an entry is as edgewright wrote it, but for what was measured."""
    return _is_right(entry, "made")


def is_measured_here(entry: Any) -> bool:
    """Whether the measurement in an entry is as edgewright wrote it."""
    return _is_right(entry, "measured")


def _is_right(entry: Any, part: str) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get(CHECK), dict):
        return False
    return entry[CHECK].get(part) == _checks(entry)[part]


def changed_samples(run: Path, entry: Mapping[str, Any]) -> Path | None:
    """A file of samples or answers that is not as the measurement wrote it; None if all are.

    Args:
        run: the directory of the run.
        entry: the entry of a step. One of an older version names no hashes.
    """
    hashes = entry.get("sample_files") or {}
    files = {run / name: recorded for name, recorded in hashes.items()}
    changed = (f for f, recorded in files.items() if not f.is_file() or file_hash(f) != recorded)
    return next(changed, None)


def seal_ledger(data: dict[str, Any]) -> None:
    """Put the checksum of a whole ledger into it."""
    data[CHECK] = seal(data)[CHECK]


def load_ledger(file: Path) -> dict[str, Any]:
    """A ledger whose steps are entries with names; its checksums are not looked at.

    Raises:
        UsageError: it is damaged, or of another schema.
    """
    data = load_json(file, AGAIN)
    schema = data.get("schema") if isinstance(data, dict) else None
    if isinstance(schema, bool) or schema != SCHEMA:
        raise UsageError(
            f"{file}: ledger of schema {schema!s:.20}, but this edgewright reads schema {SCHEMA}",
            "use the edgewright that wrote it; or run the recipe again with --fresh, or into "
            "another --out",
        )
    steps = data.setdefault("steps", [])
    if not isinstance(steps, list):
        raise Damaged(file, "its steps are no list", AGAIN)
    return data


def read_ledger(file: Path) -> dict[str, Any]:
    """A ledger to show or to judge by.

    Raises:
        UsageError: there is none, it is damaged or was edited, or it has another schema.
    """
    if not file.is_file():
        raise UsageError(f"{file}: no ledger there", "give the --out directory of a run")
    data = load_ledger(file)
    if CHECK in data and not intact(data):
        raise Damaged(file, "it was changed after edgewright wrote it", AGAIN)
    return data
