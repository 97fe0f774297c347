"""Text from outside as plain text: no control characters, a bounded length, no Markdown.

Names, notes and settings come from recipes, models, devices and other people's files. A page or a
comment shows them as text, whatever they contain.
"""

from __future__ import annotations

import re

from ..console import visible

__all__ = ["LINE", "PROSE", "escape_markdown", "plain", "shortened"]

LINE = 400
"""Most characters of a name or of another text of one line."""
PROSE = 4_000
"""Most characters of a note or of another text that may be long."""
BLOCK_START = re.compile(r"([-+](?= |$)|[-=]+$|\d{1,9}(?=[.)](?: |$)))")
AUTOLINK = re.compile(r"(?P<colon>:)(?=//)|(?i:(?<=www))(?P<dot>\.)")


def plain(value: object, limit: int = LINE) -> str:
    """A value as text without characters that a reader does not see, of bounded length."""
    return shortened(visible(str(value)), limit)


def shortened(text: str, limit: int) -> str:
    """A text of at most `limit` characters; a longer one lacks its middle, and says so."""
    if len(text) <= limit:
        return text
    note = f" … ({len(text):,} characters) … "
    kept = max(limit - len(note), 2)
    return text[: kept - kept // 3] + note + text[-(kept // 3) :]


def escape_markdown(value: object, limit: int = LINE) -> str:
    """A value as one line of Markdown that renders as this text.

    There is no markup and no HTML in it, no further table cell, and nothing that becomes a link.
    """
    text = " ".join(plain(value, limit).split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = "".join("\\" + c if c in "\\|`*_[]#~@" else c for c in text)
    text = AUTOLINK.sub(lambda found: "&#58;" if found["colon"] else "&#46;", text)
    start = BLOCK_START.match(text)
    if start is None:
        return text
    marker = start[0]
    return f"{marker}\\{text[len(marker) :]}" if marker.isdigit() else f"\\{text}"
