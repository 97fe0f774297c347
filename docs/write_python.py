"""Writes the functions and the errors in docs/python.md, from docstrings and signatures.

Run `python -m edgewright.docs.write_python` after a change of the Python functions or the errors.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .. import errors
from ..commands import api
from .write_reference import wrapped

__all__ = ["FILE", "page"]

FILE = Path(__file__).with_name("python.md")
BEGIN = "<!-- functions: written by docs/write_python.py -->"
END = "<!-- end of functions -->"


def page() -> str:
    """The page with its generated part as it should be now."""
    before, _, rest = FILE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    functions = [_function(name, getattr(api, name)) for name in sorted(api.__all__)]
    made = "\n".join(["## Functions\n", *functions, "## Errors\n", _errors()])
    return f"{before}{BEGIN}\n{made}\n{END}{after}"


def _function(name: str, function: Callable[..., Any]) -> str:
    """The section of one function."""
    summary = (function.__doc__ or "").partition("\nArgs:")[0].strip()
    parameters = inspect.signature(function).parameters.values()
    positional = [one.name for one in parameters if one.kind is not one.KEYWORD_ONLY]
    needed = [
        f"{one.name}=..."
        for one in parameters
        if one.kind is one.KEYWORD_ONLY and one.default is one.empty
    ]
    call = ", ".join([*positional, *needed, "**options"])
    options = f"Options: [edgewright {name}](reference.md#edgewright-{name})."
    return f"### `ew.{name}({call})`\n\n{wrapped(summary)}\n\n{options}\n"


def _errors() -> str:
    """The table of exceptions, with what each of them means."""
    rows = ["| exception | exit code | when |", "| --- | --- | --- |"]
    exported = [getattr(errors, name) for name in errors.__all__]
    kinds = [one for one in exported if isinstance(one, type)]
    for kind in sorted(kinds, key=lambda kind: (kind.exit_code, kind.__name__)):
        first = (kind.__doc__ or "").partition("\n")[0]
        rows.append(f"| `{kind.__name__}` | {kind.exit_code} | {first} |")
    return "\n".join(rows)


if __name__ == "__main__":
    FILE.write_text(page(), encoding="utf-8")
