"""Refuses verbs that must run in one process if torchrun or accelerate started several."""

from __future__ import annotations

import os

from ..errors import UsageError

__all__ = ["process_count", "require_one_process"]


def process_count() -> int:
    """How many processes torchrun or accelerate started; 1 without them."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def require_one_process(what: str) -> None:
    """Stop if torchrun or accelerate started several processes.

    Args:
        what: what runs in one process, for the message: `a recipe runs`.

    Raises:
        UsageError: several were started.
    """
    count = process_count()
    if count > 1:
        raise UsageError(
            f"{what} in one process, and {count} were started",
            "use torchrun or accelerate launch for distill only",
        )
