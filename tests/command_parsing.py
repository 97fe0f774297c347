"""The commands of the command line, and a parser of examples that runs nothing."""

from __future__ import annotations

import shlex
from functools import cache
from typing import Any

from typer.main import get_command

from edgewright.cli import app


@cache
def verbs() -> dict[str, Any]:
    """Every command by what is typed, without groups that only hold others."""

    def collect(command: Any, name: str) -> dict[str, Any]:
        inner = getattr(command, "commands", {})
        found = {} if not name else {name: command}
        for word, one in inner.items():
            found |= collect(one, f"{name} {word}".strip())
        return found

    return collect(get_command(app), "")


def parse(line: str) -> dict[str, Any]:
    """Parse a command as the command line does; the values by parameter.

    Raises:
        Exception: what the command line would report as wrong usage.
    """
    words = shlex.split(line.partition(" > ")[0])
    if words[0] == "torchrun":
        words = words[words.index("edgewright.cli") :]
    known = verbs()
    name = " ".join(words[1:3]) if " ".join(words[1:3]) in known else words[1]
    command = known[name]
    return command.make_context(name, words[1 + len(name.split()) :]).params
