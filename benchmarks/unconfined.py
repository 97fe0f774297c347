"""What to say where programs ran that nothing kept away from the user's files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .tasks.sandbox import NOT_CONFINED

__all__ = ["unconfined_tasks"]

KEY = "sandbox/"


def unconfined_tasks(contexts: Iterable[Mapping[str, Any]]) -> list[str]:
    """A warning for each code task of these measurements whose programs were not confined.

    Args:
        contexts: of the measurements.
    """
    found = (
        f"{key.removeprefix(KEY)}: the programs could read and change your files, because neither "
        "bubblewrap nor namespaces nor Landlock work here: install bubblewrap, or allow user "
        "namespaces"
        for context in contexts
        for key, value in context.items()
        if key.startswith(KEY) and str(value).startswith(NOT_CONFINED)
    )
    return list(dict.fromkeys(found))
