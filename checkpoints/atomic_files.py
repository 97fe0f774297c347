"""Writing single files whole or not at all. Torch is not imported: reports and measurements need none."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ..errors import EdgewrightError

__all__ = ["write_json", "write_text"]


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically; what the file system says (`OSError`) is left to the caller."""
    _replace(path, json.dumps(value, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file atomically.

    Raises:
        EdgewrightError: it cannot be written.
    """
    try:
        _replace(path, text)
    except OSError as error:
        raise EdgewrightError(
            f"{path}: could not be written: {error.strerror or error}", "free disk space, run again"
        ) from error


def _replace(path: Path, text: str) -> None:
    """Put a text into a file: a temporary name, fsync, rename."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8", errors="replace", newline="\n") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    temporary.replace(path)
