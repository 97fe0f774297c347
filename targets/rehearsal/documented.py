"""Check the arguments of a device's tool against the options that its version documents."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import yaml
from pydantic import Field

from ..platform_profile import StrictModel
from ..profile import version_key

__all__ = ["Option", "Tool", "argument_faults", "documented_tools"]

NUMBER = re.compile(r"\d+(\.\d+)?")


class Option(StrictModel):
    """Options of a tool that take the same kind of value."""

    names: list[str]
    """Their names, as the style of the tool spells them."""
    value: str | list[str]
    """`flag` for none, `text`, `number`, or the values that are allowed."""
    since: str | None = None
    """The first version of TensorRT that has them; None: all."""
    until: str | None = None
    """The last version that has them; None: all."""

    def known_to(self, version: str) -> bool:
        """Whether a version of TensorRT has these options."""
        at = version_key(version)
        return (self.since is None or version_key(self.since) <= at) and (
            self.until is None or at <= version_key(self.until)
        )


class Tool(StrictModel):
    """A program on a device, and its documented options."""

    style: str
    """`--name=value`, or `-name value` as two arguments."""
    options: list[Option]
    """All options of all versions."""


class _Documented(StrictModel):
    tools: dict[str, Tool]
    sources: list[str] = Field(default_factory=list[str])


@cache
def documented_tools() -> dict[str, Tool]:
    """The tools whose options are known, by name."""
    text = (Path(__file__).parent / "options.yaml").read_text(encoding="utf-8")
    return _Documented.model_validate(yaml.safe_load(text)).tools


def argument_faults(command: Sequence[str], tensorrt: str) -> list[str]:
    """What is wrong with the arguments of a command; empty: nothing.

    Args:
        command: the program, by name or path, and its arguments.
        tensorrt: version of TensorRT on the device.
    """
    name = Path(command[0]).name
    tool = documented_tools().get(name)
    if tool is None:
        return [f"{name}: a device of this kind is not known to have it"]
    joined = tool.style == "--name=value"
    given = _joined(command[1:]) if joined else _apart(command[1:], tool)
    faults: list[str] = []
    for option, value in given:
        shown = f"--{option}" if joined else option
        entries = [entry for entry in tool.options if option in entry.names]
        known = next((entry for entry in entries if entry.known_to(tensorrt)), None)
        if known is None:
            why = f"not in TensorRT {tensorrt}" if entries else "not documented"
            faults.append(f"{name} {shown}: {why}")
        elif fault := _value_fault(known.value, value):
            faults.append(f"{name} {shown}: {fault}")
    return faults


def _joined(arguments: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    for argument in arguments:
        name, mark, value = argument.removeprefix("--").partition("=")
        yield (name if argument.startswith("--") else argument), value if mark else None


def _apart(arguments: Sequence[str], tool: Tool) -> Iterator[tuple[str, str | None]]:
    takes = {n for entry in tool.options if entry.value != "flag" for n in entry.names}
    rest = iter(arguments)
    for argument in rest:
        yield argument, next(rest, None) if argument in takes else None


def _value_fault(kind: str | list[str], value: str | None) -> str | None:
    if kind == "flag":
        return None if value is None else f"takes no value, and `{value}` was given"
    if not value:
        return "needs a value"
    if kind == "number" and not NUMBER.fullmatch(value):
        return f"needs a number, not `{value}`"
    if isinstance(kind, list) and value not in kind:
        return f"takes {', '.join(kind)}, not `{value}`"
    return None
