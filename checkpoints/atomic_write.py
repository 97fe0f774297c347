"""Writing files whole or not at all. No torch here: jobs that only compare use it too."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ..errors import EdgewrightError

__all__ = ["write_json", "write_text"]


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8", errors="replace", newline="\n") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    temporary.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically: a temporary name, fsync, rename.

    Raises:
        OSError: the file cannot be written.
    """
    _replace(path, json.dumps(value, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically: a temporary name, fsync, rename.

    Raises:
        EdgewrightError: the file cannot be written.
    """
    try:
        _replace(path, text)
    except OSError as error:
        raise EdgewrightError(
            f"{path}: could not be written: {error.strerror or error}",
            "free disk space or choose another path, then run the command again",
        ) from error
