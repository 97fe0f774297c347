"""Writes docs/reference.md: every verb with its options, from the same declarations as `--help`.

Run `python -m edgewright.docs.write_reference` after an option or a help text has changed.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import typer

from ..cli import app
from ..commands.help_pages import by_panel

__all__ = ["FILE", "reference", "wrapped"]

FILE = Path(__file__).with_name("reference.md")
HEAD = """\
# Reference: verbs and options

This page is written by `python -m edgewright.docs.write_reference` from the declarations of the
options; do not edit it. A recipe has the same options under their names: `edgewright recipe schema`
prints its JSON Schema for editors. In Python, options are keywords: `--group-size 64` is
`ew.quantize(..., group_size=64)`.

Every verb also has `--debug` (show the traceback of an error), and every verb but `serve` has
`--json` (print one JSON document on standard output).
"""
EVERYWHERE = ("--json", "--debug", "--help")


def reference() -> str:
    """The page as Markdown."""
    return "\n".join([HEAD, *_sections(typer.main.get_command(app), "edgewright")])


def _sections(command: Any, name: str) -> list[str]:
    inner: dict[str, Any] = getattr(command, "commands", {})
    found = [] if name == "edgewright" else [_section(command, name)]
    for word in sorted(inner):
        found += _sections(inner[word], f"{name} {word}")
    return found


def _section(command: Any, name: str) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.opts[0] not in EVERYWHERE and p not in arguments]
    lines = [f"## {name}", "", wrapped(command.help or ""), ""]
    lines += [f"- `{one.metavar or one.name}`: {one.help or 'a name'}" for one in arguments]
    for panel, some in by_panel(options).items():
        lines += ["", f"**{panel}**", ""]
        lines += ["| option | default | what it does |", "| --- | --- | --- |"]
        lines += [f"| {_flags(one)} | {_default(one)} | {_cell(one)} |" for one in some]
    return "\n".join([*lines, ""])


def wrapped(text: str) -> str:
    """The text with paragraphs of at most 120 columns; indented examples stay as they are."""
    lines = [
        line if line.startswith(" ") else textwrap.fill(line, 120, break_on_hyphens=False)
        for line in text.splitlines()
        if line != "\b"  # for the terminal: do not wrap the lines that follow
    ]
    return "\n".join(lines)


def _flags(option: Any) -> str:
    return ", ".join(f"`{flag}`" for flag in (*option.opts, *option.secondary_opts))


def _default(option: Any) -> str:
    if option.required:
        return "required"
    value = option.default
    if value is None or value in ("", False, []):
        return ""
    if isinstance(value, list | tuple):
        value = " ".join(map(str, value))
    return f"`{value}`"


def _cell(option: Any) -> str:
    """What an option does, with its choices."""
    text: str = option.help or ""
    metavar: str = option.metavar or ""
    if metavar.startswith("["):
        text += f" ({metavar.strip('[]').replace('|', ', ')})"
    return text.replace("|", "\\|")


if __name__ == "__main__":
    FILE.write_text(reference(), encoding="utf-8")
