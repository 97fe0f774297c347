"""Find calls of tools in the text of an answer while it arrives."""

from __future__ import annotations

from collections.abc import Collection

from .text import overlap
from .tool_formats import Call, CallFormat, calls_in

__all__ = ["ToolCalls"]


class ToolCalls:
    """Takes the calls out of an answer. What is no call of a known tool stays text.

    Args:
        format: how the model writes calls.
        tools: names of the tools that it may call.
        several: whether an answer may have more than one call; else it ends after the first.

    Attributes:
        count: number of calls so far.
    """

    def __init__(self, format: CallFormat, tools: Collection[str], several: bool = True) -> None:
        self._format = format
        self._tools = tools
        self._several = several
        self._held = ""
        self._inside = False
        self._begun = False
        """Whether text came that is no space."""
        self.count = 0

    @property
    def held(self) -> int:
        """Number of characters that were added and not returned; a call may begin in them."""
        return len(self._held)

    @property
    def complete(self) -> bool:
        """Whether no more calls may come."""
        return self.count > 0 and not self._several

    def add(self, text: str, final: bool = False) -> list[str | Call]:
        """Add a piece, the last one if `final`; returns texts and calls in their order."""
        self._held += text
        found: list[str | Call] = []
        while not self.complete:
            one = self._call(final) if self._inside else self._before(final)
            if one is None:
                break
            found += one
        return [one for one in found if one]

    def _before(self, final: bool) -> list[str | Call] | None:
        """The text before a call; None if more text is needed."""
        if self._format.bare and not self._begun:
            start = self._held.lstrip()
            if not start and not final:
                return None
            if start.startswith("{"):
                self._inside = self._begun = True
                return []
        place = self._held.find(self._format.mark)
        if place < 0 and final:
            text = self._held
            self._held = ""
            return [text] if text else None
        marked = place >= 0
        end = place if marked else len(self._held) - overlap(self._held, self._format.mark)
        text = self._held[:end].rstrip()
        if not marked:
            self._held = self._held[len(text) :]
            self._begun = self._begun or bool(text)
            return [text] if text else None
        self._held = self._held[end:]
        self._inside = True
        return [text]

    def _call(self, final: bool) -> list[str | Call] | None:
        """The calls up to the end of them; None if more text is needed."""
        mark, end = self._format.mark, self._format.end
        place = self._held.find(end) if end else -1
        if place < 0 and not final:
            return None
        size = len(self._held) if place < 0 else place + len(end)
        raw = self._held[:size]
        self._held = self._held[size:].lstrip()
        self._inside = False
        body = raw.removesuffix(end).lstrip().removeprefix(mark)
        calls = calls_in(body, self._format, self._tools)
        if not self._several:
            calls = calls[:1]
        self.count += len(calls)
        self._begun = True
        return [*calls] if calls else [raw]
