"""Split a SOURCE string into its parts, and check that a named file exists."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import UsageError, suggestion
from .kinds import KINDS, TABLES, USAGE
from .row_range import ALL_ROWS, RowRange, split_range

__all__ = ["split_source"]

BUILTINS = ("reasoning", "prompts", "own")
EXISTING = "give the path of an existing file"


def split_source(
    text: str, kind: str, rest: str, missing: str = EXISTING
) -> tuple[str, str, RowRange]:
    """Split what follows the kind into name, field and range of rows.

    A file whose own name ends in brackets is that file, without a range.

    Args:
        text: all that the user wrote, for messages.
        kind: the kind.
        rest: what follows.
        missing: the hint if there is no such file.

    Returns:
        The name; the field, of hub data everything between the name and the range; the range.

    Raises:
        UsageError: unknown kind or builtin name, a file that does not exist or is empty, or a
            range that is none.
    """
    if kind not in KINDS or (kind == "hf" and not rest):
        near = "" if kind in KINDS else suggestion(kind, KINDS)
        raise UsageError(f"{text}: not a data source", f"{near}write {USAGE}")
    name, part = (rest, ALL_ROWS) if os.path.exists(rest) else split_range(rest, text)
    if kind not in TABLES and part != ALL_ROWS:
        raise UsageError(
            f"{text}: {kind} data has no rows to choose {part} from",
            f"leave {part} out; only {', '.join(TABLES)} data has rows",
        )
    if kind == "builtin":
        if name not in BUILTINS:
            hint = f"{suggestion(name, BUILTINS)}built in: {', '.join(BUILTINS)}"
            raise UsageError(f"{text}: no such built-in data", hint)
        return name, "", part
    if kind == "hf":
        name, _, field = name.partition(":")
        return name, field, part
    file, field = _split_field(name) if kind in TABLES else (name, "")
    if not os.path.isfile(file):
        raise UsageError(f"{text}: no such file: {file}", missing)
    if not Path(file).stat().st_size:
        raise UsageError(f"{text}: the file is empty", "give a file that contains text")
    return file, field, part


def _split_field(name: str) -> tuple[str, str]:
    """A file and its field, where the file's own name may have colons."""
    file, _, field = name.rpartition(":")
    return (name, "") if os.path.isfile(name) or not file else (file, field)
