"""The kinds of tasks, and how each is written. Imports no torch: the help needs them."""

from __future__ import annotations

from ...data.kinds import PROBLEMS, RANGE

__all__ = ["BUILTIN", "FILES", "HARNESS", "KINDS", "USAGE", "WRITTEN"]

BUILTIN = "reasoning"
"""The task that has no name behind it."""
HARNESS = "lm-eval"
"""The kind whose tasks lm-eval has. One of them may be a group of tasks with other names."""
KINDS = {
    BUILTIN: BUILTIN,
    "gym": "gym:NAME",
    "qa": "qa:FILE",
    "choice": "choice:FILE",
    "code": "code:FILE",
    HARNESS: "lm-eval:NAME or lm-eval:FILE.yaml",
}
"""By kind, how a task of it is written."""
WRITTEN = (BUILTIN, "gym", "qa", "code")
"""Kinds whose answers are texts. The others score given answers by their likelihood."""
FILES = tuple(kind for kind, usage in KINDS.items() if usage == f"{kind}:FILE")
"""Kinds that read a file, or other data with rows."""
USAGE = (
    f"{', '.join(KINDS.values())}; {', '.join(FILES[:-1])} and {FILES[-1]} take {PROBLEMS}, with "
    f"{RANGE} behind it for a part of its rows"
)
"""How every kind is written, for help and messages."""
