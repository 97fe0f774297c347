"""Fills in the templates: self-contained HTML, and Markdown.

Every value is plain text of a bounded length, and is escaped. So nothing that a recipe, a model or
a device calls itself can become markup, or cause a request.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup, escape

from ..plain_text import LINE, PROSE, escape_markdown, plain

__all__ = ["html_page", "markdown_page"]

TEMPLATES = FileSystemLoader(Path(__file__).parent / "templates")
HEADING = 120
"""Most characters of the head of a column."""
CODE = 200_000
"""Most characters of a recipe or a command."""
UNBROKEN = "\N{NO-BREAK SPACE}"


class Bounded(str):
    """A text with a limit of its own."""

    __slots__ = ("limit",)
    limit: int


def _bounded(limit: int) -> Any:
    def mark(value: object) -> Bounded:
        text = Bounded(value)
        text.limit = limit
        return text

    return mark


def _environment(**settings: Any) -> Environment:
    pages = Environment(  # nosec B701  # `_html` or `_markdown` is called with every value
        loader=TEMPLATES, trim_blocks=True, lstrip_blocks=True, **settings
    )
    for name, limit in (("heading", HEADING), ("prose", PROSE), ("code", CODE)):
        pages.filters[name] = _bounded(limit)
    return pages


def _limit(value: Any) -> int:
    return value.limit if isinstance(value, Bounded) else LINE


def html_page(template: str, **values: Any) -> str:
    """An HTML page; every value is escaped."""
    return _html_pages().get_template(template).render(values)


@cache
def _html_pages() -> Environment:
    pages = _environment(autoescape=True, finalize=_html)
    pages.filters["breakable"] = _breakable
    pages.filters["in_pieces"] = _in_pieces
    return pages


def _html(value: Any) -> Any:
    return value if isinstance(value, Markup) else plain(value, _limit(value))


def _breakable(name: str) -> Markup:
    """A dotted name that a browser may break before each dot."""
    return Markup("<wbr>.").join(escape(part) for part in plain(name).split("."))


def _in_pieces(text: str) -> Markup:
    """A figure that a browser may break before its standard error, and nowhere else."""
    value, *error = (part.replace(" ", UNBROKEN) for part in plain(text).split(" ± "))
    return Markup(f" ±{UNBROKEN}").join(map(escape, (value, *error)))


def markdown_page(template: str, **values: Any) -> str:
    """A Markdown page; all values are escaped, except those of the filter `fenced`."""
    return _markdown_pages().get_template(template).render(values)


@cache
def _markdown_pages() -> Environment:
    pages = _environment(autoescape=False, finalize=_markdown)
    pages.filters["fenced"] = _fenced
    return pages


def _markdown(value: Any) -> Any:
    return value if isinstance(value, Markup) else escape_markdown(value, _limit(value))


def _fenced(text: str, language: str = "") -> Markup:
    """A code block whose fence is longer than any fence inside the text."""
    fence = "```"
    while fence in text:
        fence += "`"
    # The text cannot close a block with this fence, so nothing in it is markup.
    return Markup(f"{fence}{language}\n{plain(text, CODE).rstrip()}\n{fence}")  # nosec B704
