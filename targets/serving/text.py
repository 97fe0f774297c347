"""Convert tokens to text while they arrive, without incomplete characters and stop texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

__all__ = ["StopSearch", "TextStream", "overlap"]

INCOMPLETE = "\ufffd"
"""The character that a tokenizer returns for bytes that are not a complete character yet."""
CONTEXT = 4
"""Earlier pieces that are decoded again: what precedes a token can change its text (a space)."""
LONGEST = 64
"""Tokens that may end in an incomplete character. More are no character, and become final."""


class StopSearch:
    """Cuts text at the first stop text, while the text arrives in pieces.

    Args:
        stops: texts that end the answer; they are not part of it.

    Attributes:
        stopped: whether a stop text appeared. What comes after it is ignored.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._stops = stops
        self._held = ""
        """Text that was not returned yet, because a stop text may begin in it, or does."""
        self.stopped = False

    @property
    def held(self) -> int:
        """Number of characters that were added and not returned."""
        return len(self._held)

    def add(self, text: str, final: bool = False) -> str:
        """Add a piece, the last one if `final`, and return the text that is now final."""
        self._held += text
        if self.stopped:
            return ""
        found = [place for place in map(self._held.find, self._stops) if place >= 0]
        if found:
            self.stopped = True
            end = min(found)
        elif final:
            end = len(self._held)
        else:
            end = len(self._held) - max(
                (overlap(self._held, stop) for stop in self._stops), default=0
            )
        piece = self._held[:end]
        self._held = self._held[end:]
        return piece


class TextStream:
    """Converts tokens to pieces of text. A piece that was returned is final.

    A new token costs the same at the end of a long answer as at its beginning: only the latest
    tokens are decoded, and only text that was not returned yet is searched for stop texts.

    Args:
        decode: converts token ids to text.
        stops: texts that end the answer; they are not part of it.

    Attributes:
        received: number of characters of all tokens so far.
    """

    def __init__(self, decode: Callable[[list[int]], str], stops: Sequence[str] = ()) -> None:
        self._decode = decode
        self._search = StopSearch(stops)
        self._ids: list[int] = []
        self._ends = [0]
        """Where the latest pieces of complete characters end in `_ids`."""
        self._known = ""
        """The text of the ids up to the last of these ends."""
        self.received = 0

    @property
    def stopped(self) -> bool:
        """Whether a stop text appeared. Tokens after it are ignored."""
        return self._search.stopped

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
        text = self._decoded(final)
        self.received += len(text)
        return self._search.add(text, final)

    def _decoded(self, final: bool) -> str:
        """The text of tokens since the last end, or nothing if it ends inside a character."""
        text = self._decode(self._ids)
        many = len(self._ids) - self._ends[-1] > LONGEST
        if text.endswith(INCOMPLETE) and not (final or many):
            return ""
        new = text[len(self._known) :]
        self._ends = [*self._ends[-CONTEXT:], len(self._ids)]
        first = self._ends[0]
        self._ids = self._ids[first:]
        self._ends = [end - first for end in self._ends]
        self._known = self._decode(self._ids)
        return new


def overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` are the beginning of `stop`."""
    return next(
        (
            size
            for size in range(min(len(stop) - 1, len(text)), 0, -1)
            if text.endswith(stop[:size])
        ),
        0,
    )
