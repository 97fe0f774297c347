"""What a graph leaves out: logits before the last position, and old positions of the KV cache."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import UsageError

__all__ = ["Cut"]


@dataclass(frozen=True)
class Cut:
    """What a graph leaves out.

    Attributes:
        last_logits: only the last position gets logits, which saves a device the buffer of
            [sequence, vocabulary].
        window: last positions that attention sees and the cache keeps; 0: all.
        sinks: first positions that attention always sees and the cache always keeps (Xiao et al.
            2023, attention sinks).
    """

    last_logits: bool = False
    window: int = 0
    sinks: int = 4

    def __post_init__(self) -> None:
        if self.window < 0 or self.sinks < 0:
            raise UsageError(
                f"a window of {self.window} and {self.sinks} sinks", "give numbers >= 0"
            )
