"""Separate the reasoning of models of R1's kind, `<think>...</think>`, from the answer after it."""

from __future__ import annotations

from .text import overlap

__all__ = ["CLOSE", "OPEN", "Reasoning", "opens_reasoning"]

OPEN, CLOSE = "<think>", "</think>"


def opens_reasoning(prompt: str) -> bool:
    """Whether a prompt ends with the tag that opens the reasoning, as R1's template does."""
    return prompt.rstrip().endswith(OPEN)


class Reasoning:
    """Divides the text of an answer while it arrives. Space around both parts is dropped.

    Args:
        opened: whether the prompt opened the reasoning; else an answer may begin with the tag.

    Attributes:
        inside: whether the latest text was reasoning.
    """

    def __init__(self, opened: bool) -> None:
        self.inside = opened
        self._before = not opened
        """Whether the answer may still begin with the tag."""
        self._strip = opened
        """Whether space that comes next is dropped."""
        self._held = ""

    @property
    def held(self) -> int:
        """Number of characters that were added and not returned; a tag may begin in them."""
        return len(self._held)

    def add(self, text: str, final: bool = False) -> tuple[str, str]:
        """Add a piece, the last one if `final`; returns more reasoning and more of the answer."""
        self._held += text
        if self._before and not self._begin(final):
            return "", ""
        if self._strip:
            self._held = self._held.lstrip()
            self._strip = not self._held
        reasoning = self._reasoning(final) if self.inside else ""
        if self.inside:
            return reasoning, ""
        if self._strip:
            self._held = self._held.lstrip()
            self._strip = not self._held
        content = self._held
        self._held = ""
        return reasoning, content

    def _begin(self, final: bool) -> bool:
        """Decide whether the answer begins with the tag; returns False if that is open."""
        bare = self._held.lstrip()
        if bare.startswith(OPEN):
            self._held = bare[len(OPEN) :]
            self.inside = self._strip = True
        elif OPEN.startswith(bare) and not final:
            return False
        self._before = False
        return True

    def _reasoning(self, final: bool) -> str:
        """The text up to the closing tag, or up to where it may begin."""
        end = self._held.find(CLOSE)
        closed = end >= 0
        if not closed:
            end = len(self._held) - (0 if final else overlap(self._held, CLOSE))
        found = self._held[:end].rstrip()
        if closed:
            self._held = self._held[end + len(CLOSE) :]
            self.inside = False
            self._strip = True
        else:
            self._held = "" if final else self._held[len(found) :]
        return found
