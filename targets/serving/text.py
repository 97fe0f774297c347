"""Convert tokens to text while they arrive, without incomplete characters and stop texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

__all__ = ["TextStream"]

INCOMPLETE = "\ufffd"
"""The character that a tokenizer returns for bytes that are not a complete character yet."""


class TextStream:
    """Converts tokens to pieces of text. A piece that was returned is final.

    Args:
        decode: converts token ids to text.
        stops: texts that end the answer; they are not part of it.

    Attributes:
        stopped: whether a stop text appeared. Tokens after it are ignored.
    """

    def __init__(self, decode: Callable[[list[int]], str], stops: Sequence[str] = ()) -> None:
        self._decode = decode
        self._stops = stops
        self._ids: list[int] = []
        self._given = 0
        self.stopped = False

    def add(self, token: int) -> str:
        """Add a token and return the text that is now final."""
        self._ids.append(token)
        return self._advance(final=False)

    def finish(self) -> str:
        """Return the text that was held back, at the end of the answer."""
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
    """How many characters at the end of `text` are the beginning of `stop`."""
    return next(
        (
            size
            for size in range(min(len(stop) - 1, len(text)), 0, -1)
            if text.endswith(stop[:size])
        ),
        0,
    )
