"""Writes commands/api.pyi: the types of the Python API, from the options of the verbs.

`python -m edgewright.docs.write_all` calls it after a change of an option.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from textwrap import indent
from typing import Any, get_origin

from ..commands import api
from ..commands.options import Parameter
from ..commands.verb import Verb
from ..steps.places import Reads, Writes
from .import_graph import ROOT

FILE = ROOT / "commands" / "api.pyi"
HEAD = '''\
"""The types of the Python API. Made by `python -m edgewright.docs.write_all`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

from .results import GateResult, Measurement, Plan, Run, StepResult

__all__: list[str]
_Values: TypeAlias = str | Sequence[str] | Sequence[int] | Sequence[float]

'''
SEVERAL = "_Values"
"""What stands for a list; a text may stand alone."""
PLAIN = {bool: "bool", int: "int", float: "float", str: "str", Path: "str | Path"}


def types() -> str:
    """The text of the file."""
    return HEAD + "\n".join(_stub(name) for name in api.__all__)


def _stub(name: str) -> str:
    """One function: its parameters, what it returns, and its documentation."""
    function = getattr(api, name)
    verb: Verb = inspect.getclosurevars(function).nonlocals["verb"]
    options = {option.name: option for option in verb.options}
    lines: list[str] = []
    signature = inspect.signature(function)
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in lines:
            lines.append("*")
        lines.append(f"{parameter.name}: {_typed(parameter, options.get(parameter.name))}")
    parameters = "".join(f"    {line},\n" for line in lines)
    documentation = indent(f'"""{function.__doc__}\n"""', "    ")
    documentation = "\n".join(line.rstrip() for line in documentation.splitlines())
    result = signature.return_annotation.__name__
    return f"def {name}(\n{parameters}) -> {result}:\n{documentation}\n"


def _typed(parameter: inspect.Parameter, option: Parameter | None) -> str:
    """The type of a parameter, and its default."""
    default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
    if option is None:  # an argument, or a part of a recipe that is passed whole
        positional = parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        return "str | Path" if positional else f"{_whole(parameter.annotation)}{default}"
    optional = " | None" if option.default is None else ""
    return f"{_option_type(option)}{optional}{default}"


def _whole(annotation: Any) -> str:
    several = get_origin(annotation) is tuple
    return "Sequence[Mapping[str, Any]] | None" if several else "Mapping[str, Any] | None"


def _option_type(option: Parameter) -> str:
    if option.cli.separator or get_origin(option.type) is list:
        return SEVERAL
    if option.choices and option.type is str:
        return f"Literal[{', '.join(map(repr, option.choices))}]"
    model, name = option.field
    names_a_place = any(isinstance(m, Reads | Writes) for m in model.model_fields[name].metadata)
    return PLAIN[Path if names_a_place else option.type]
