"""Fills in the templates: self-contained HTML, and Markdown in which all values are escaped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

__all__ = ["html_page", "markdown_page"]

TEMPLATES = FileSystemLoader(Path(__file__).parent / "templates")


def html_page(template: str, **values: Any) -> str:
    """An HTML page; every value is escaped."""
    pages = Environment(loader=TEMPLATES, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return pages.get_template(template).render(values)


def markdown_page(template: str, **values: Any) -> str:
    """A Markdown page; all values are escaped, except those of the filter `fenced`."""
    pages = Environment(
        loader=TEMPLATES,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_escape_markdown,
    )
    pages.filters["fenced"] = _fenced
    return pages.get_template(template).render(values)


def _escape_markdown(value: Any) -> Any:
    """The value as plain text: no markup, no HTML, and no further table cell."""
    if isinstance(value, Markup):
        return value
    text = " ".join(str(value).split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join("\\" + c if c in "\\|`*_[]#~" else c for c in text)


def _fenced(text: str, language: str = "") -> Markup:
    """A code block whose fence is longer than any fence inside the text."""
    fence = "```"
    while fence in text:
        fence += "`"
    return Markup(f"{fence}{language}\n{text.rstrip()}\n{fence}")
