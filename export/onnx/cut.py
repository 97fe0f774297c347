"""What a graph leaves out of a model: logits nobody reads, and positions that a long context can do without."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import UsageError

__all__ = ["Cut"]


@dataclass(frozen=True)
class Cut:
    """What a graph leaves out.

    Attributes:
        last_logits: only the last position gets logits; a device then needs no buffer of [sequence, vocabulary].
        window: positions before a token that its attention still sees, and the cache keeps; 0 for all.
        sinks: first positions that it sees and keeps as well (Xiao et al. 2023, attention sinks).
    """

    last_logits: bool = False
    window: int = 0
    sinks: int = 4

    def __post_init__(self) -> None:
        if self.window < 0 or self.sinks < 0:
            raise UsageError(
                f"a window of {self.window} and {self.sinks} sinks", "give numbers from 0 on"
            )
