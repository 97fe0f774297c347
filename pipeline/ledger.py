"""The ledger of a run: options, fingerprint, output, metrics and environment of every step."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .. import __version__
from ..benchmarks.ledger_files import (
    MEASURED,
    SCHEMA,
    is_made_here,
    is_measured_here,
    load_ledger,
    seal_entry,
    seal_ledger,
)
from ..checkpoints.atomic_files import write_json
from ..checkpoints.outputs import LEDGER
from ..checkpoints.sealed import CHECK
from ..console import console
from ..errors import UsageError
from ..redaction import redacted_values
from .environment import environment
from .fingerprint import fingerprint

__all__ = ["Ledger", "environment", "new_entry"]

UNMEASURED: dict[str, Any] = {
    "metrics": {},
    "context": {},
    "measurement_notes": [],
    "samples": "",
    "sample_files": {},
}


def new_entry(
    name: str, kind: str, config: Mapping[str, Any], fields: Mapping[str, Any], output: str
) -> dict[str, Any]:
    """The entry of a step that has not been measured yet.

    Args:
        name: name of the step.
        kind: kind of the step.
        config: its options.
        fields: everything that the result depends on.
        output: its directory, relative to that of the run.
    """
    return {
        "name": name,
        "kind": kind,
        "config": dict(config),
        "fingerprint": fingerprint(fields),
        "depends_on": dict(fields),
        "output": output,
        "seconds": 0.0,
        "notes": [],
        "details": {},
        **UNMEASURED,
    }


def _is_older_deployment(entry: Any) -> bool:
    """Whether an entry is the record of a deployment without checksums. No run makes it again."""
    return (
        isinstance(entry, dict)
        and CHECK not in entry
        and entry.get("kind") == "deploy"
        and isinstance(entry.get("name"), str)
        and isinstance(entry.get("metrics"), dict)
    )


class Ledger:
    """`ledger.json` in the directory of a run. It is written atomically after every change."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / LEDGER
        self.data: dict[str, Any] = {"schema": SCHEMA, "edgewright": __version__, "steps": []}
        self.altered: dict[str, str] = {}
        """Steps whose entry, or whose measurement, is not as a run wrote it; and what is done."""

    @classmethod
    def load(cls, folder: Path) -> Ledger:
        """Read the ledger of a run; if there is none, it is empty.

        An entry that was edited is left out, so that its step is made again. Of an entry whose
        figures were edited, the measurement is left out.

        Raises:
            UsageError: the file is damaged or of another schema.
        """
        ledger = cls(folder)
        if ledger.path.exists():
            ledger.data = load_ledger(ledger.path)
            found = ledger.data["steps"]
            ledger.data["steps"] = [kept for entry in found if (kept := ledger._checked(entry))]
        return ledger

    @classmethod
    def donors(cls, folders: Iterable[Path]) -> list[Ledger]:
        """The ledgers of other runs; one that cannot be read is left out, and a message says so."""
        found: list[Ledger] = []
        for folder in folders:
            try:
                found.append(cls.load(folder))
            except UsageError as error:
                console.print(f"not reused: {error}", highlight=False, markup=False)
        return found

    def _checked(self, entry: Any) -> dict[str, Any] | None:
        """An entry of the file, as far as a run wrote it."""
        name = str(entry.get("name")) if isinstance(entry, dict) else ""
        what = f"its entry in {self.path} was edited, or written by an older edgewright"
        if not is_made_here(entry):
            self.altered[name] = f"made again: {what}"
            if _is_older_deployment(entry):
                return entry
            if isinstance(entry, dict) and entry.get("kind") == "deploy":
                console.print(f"deployment {name}: left out: {what}", highlight=False, markup=False)
            return None
        if not is_measured_here(entry):
            self.altered[name] = f"measured again: {what}"
            return {key: value for key, value in entry.items() if key not in MEASURED} | UNMEASURED
        return entry

    def begin(self, recipe: Mapping[str, Any], command: str) -> None:
        """Record the recipe, the command and the environment of this run; without secrets."""
        self.data |= {
            "schema": SCHEMA,
            "edgewright": __version__,
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "command": command,
            "recipe": redacted_values(recipe),
            "environment": environment(),
        }

    def step(self, name: str) -> dict[str, Any] | None:
        """The entry of a step, or None."""
        return next((s for s in self.data["steps"] if s["name"] == name), None)

    def put(self, entry: Mapping[str, Any], order: list[str]) -> None:
        """Add or replace the entry of a step, and write the file.

        Entries of deployments are no steps of a recipe: they stay, at the end. Entries of steps
        that the recipe no longer has are removed.

        Args:
            entry: the entry.
            order: names of all steps of the recipe, in order.
        """
        entries = {s["name"]: s for s in self.data["steps"]} | {entry["name"]: seal_entry(entry)}
        deployed = [
            name for name, step in entries.items() if step["kind"] == "deploy" and name not in order
        ]
        self.data["steps"] = [entries[name] for name in [*order, *deployed] if name in entries]
        self.write()

    def write(self) -> None:
        """Write the file."""
        seal_ledger(self.data)
        write_json(self.path, self.data)
