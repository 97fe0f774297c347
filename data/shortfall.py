"""Says so where less was used than was asked for."""

from __future__ import annotations

__all__ = ["shortfall"]


def shortfall(used: int, asked: int, what: str, why: str) -> list[str]:
    """One note if less was used than asked for, else none.

    Args:
        used: the number that was used.
        asked: the number that was asked for.
        what: what is counted, in the plural: `problems of gsm8k`.
        why: the reason: `the file holds no more`.
    """
    return [f"{used:,} {what}, of the {asked:,} asked for: {why}"] if used < asked else []
