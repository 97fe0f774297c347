"""The ledger of a run: what every step was given, what it made and what was measured, and whether that still holds."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from .. import __version__
from ..checkpoints.files import write_json
from ..errors import UsageError

__all__ = ["Ledger", "code_version", "environment", "fingerprint"]

SCHEMA = 1
ROOT = Path(__file__).parents[1]
STEP_CODE = ("compress", "export", "targets", "models", "data", "checkpoints", "steps")
MEASURE_CODE = (*STEP_CODE[1:], "benchmarks")


@cache
def code_version(parts: tuple[str, ...]) -> str:
    """A short hash of the sources that a result depends on, so that a changed algorithm is never taken for the old one."""
    digest = hashlib.sha256(__version__.encode())
    for part in parts:
        files = [ROOT / part] if part.endswith(".py") else sorted((ROOT / part).rglob("*.py"))
        for file in files:
            digest.update(file.relative_to(ROOT).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def fingerprint(fields: Mapping[str, Any]) -> str:
    """The hash of everything a step depends on."""
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def environment() -> dict[str, Any]:
    """Versions, processor and threads: what a figure may depend on."""
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


class Ledger:
    """`ledger.json` in a run's directory, written atomically after every change."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "ledger.json"
        self.data: dict[str, Any] = {"schema": SCHEMA, "edgewright": __version__, "steps": []}

    @classmethod
    def load(cls, folder: Path) -> Ledger:
        """Read the ledger of a run; an absent one is empty.

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
        """Note what this run is about."""
        self.data |= {
            "schema": SCHEMA,
            "edgewright": __version__,
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "command": command,
            "recipe": dict(recipe),
            "environment": environment(),
        }

    def step(self, name: str) -> dict[str, Any] | None:
        """The entry of a step, if there is one."""
        return next((s for s in self.data["steps"] if s["name"] == name), None)

    def put(self, entry: Mapping[str, Any], order: list[str]) -> None:
        """Add or replace a step's entry, keep the recipe's order, drop steps the recipe no longer has, and write.

        What was measured on devices is no step of a recipe and stays, at the end.
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
