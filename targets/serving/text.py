"""From tokens back to text while they arrive: no half characters, and nothing of a stop text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

__all__ = ["TextStream"]

INCOMPLETE = "\ufffd"
"""What a decoder shows for bytes that are no whole character yet."""


class TextStream:
    """Turns tokens into pieces of text that never have to be taken back.

    Args:
        decode: token ids to text.
        stops: texts before which the answer ends.

    Attributes:
        stopped: whether a stop text appeared; what follows is ignored.
    """

    def __init__(self, decode: Callable[[list[int]], str], stops: Sequence[str] = ()) -> None:
        self._decode, self._stops = decode, stops
        self._ids: list[int] = []
        self._given = 0
        self.stopped = False

    def add(self, token: int) -> str:
        """The text that is certain after one more token."""
        self._ids.append(token)
        return self._advance(final=False)

    def finish(self) -> str:
        """What was held back."""
        return self._advance(final=True)

    def _advance(self, final: bool) -> str:
        if self.stopped:
            return ""
        text = self._decode(self._ids)
        found = [
            place
            for place in (text.find(stop, max(0, self._given - len(stop))) for stop in self._stops)
            if place >= 0
        ]
        if found:
            self.stopped = True
            end = min(found)
        elif final:
            end = len(text)
        else:
            whole = text.rstrip(INCOMPLETE)
            end = len(whole) - max((_overlap(whole, stop) for stop in self._stops), default=0)
        piece = text[self._given : end]
        self._given = max(self._given, end)
        return piece


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of a text are the beginning of a stop text."""
    return next(
        (
            size
            for size in range(min(len(stop) - 1, len(text)), 0, -1)
            if text.endswith(stop[:size])
        ),
        0,
    )
