"""Where text that models wrote is kept. Imports no torch."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["CACHE", "cache_directory"]

CACHE = "EDGEWRIGHT_CACHE"
"""Environment variable that names the cache directory."""


def cache_directory() -> Path:
    """Where text that models wrote is kept.

    `$EDGEWRIGHT_CACHE`, else `edgewright` in `$XDG_CACHE_HOME`, else `~/.cache/edgewright`.
    """
    if named := os.environ.get(CACHE):
        return Path(named).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "edgewright"
