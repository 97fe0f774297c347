"""The ledger of a run: options, fingerprint, output, metrics and environment of every step."""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import __version__
from ..checkpoints.files import write_json
from ..errors import UsageError
from ..redaction import redacted_values
from .fingerprint import fingerprint

__all__ = ["Ledger", "environment", "new_entry"]

SCHEMA = 1


def environment() -> dict[str, Any]:
    """Versions, processor and threads: everything that a measurement may depend on."""
    import onnxruntime
    import torch
    import transformers

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "onnxruntime": onnxruntime.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )


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
        "metrics": {},
        "notes": [],
        "details": {},
        "context": {},
        "measurement_notes": [],
        "samples": "",
    }


class Ledger:
    """`ledger.json` in the directory of a run. It is written atomically after every change."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "ledger.json"
        self.data: dict[str, Any] = {"schema": SCHEMA, "edgewright": __version__, "steps": []}

    @classmethod
    def load(cls, folder: Path) -> Ledger:
        """Read the ledger of a run; if there is none, it is empty.

        Raises:
            UsageError: the file is damaged or of another schema.
        """
        ledger = cls(folder)
        if ledger.path.exists():
            try:
                data = json.loads(ledger.path.read_text())
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                raise UsageError(
                    f"{ledger.path}: not valid JSON: {error}", "run again with --fresh"
                ) from error
            if not isinstance(data, dict) or data.get("schema") != SCHEMA:
                raise UsageError(
                    f"{ledger.path}: not a ledger of schema {SCHEMA}",
                    "run again with --fresh, or into another --out",
                )
            ledger.data = data
        return ledger

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
        entries = {s["name"]: s for s in self.data["steps"]} | {entry["name"]: dict(entry)}
        deployed = [
            name for name, step in entries.items() if step["kind"] == "deploy" and name not in order
        ]
        self.data["steps"] = [entries[name] for name in [*order, *deployed] if name in entries]
        self.write()

    def write(self) -> None:
        """Write the file."""
        write_json(self.path, self.data)
