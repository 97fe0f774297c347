"""Turns pydantic models into parameters of a verb, and what was typed into valid models.

One field is one `Parameter`: a Typer option and a keyword argument of the Python API with the same
name, default and text. A nested model gives the flags of its fields, under a prefix. The marker
`Cli` (steps/options.py) says where a flag differs from the field's name.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from ..steps.options import Cli
from ..steps.panels import COMMON, panel_of

__all__ = [
    "REQUIRED",
    "Expand",
    "Nested",
    "Parameter",
    "composed_fields",
    "expand",
    "nested_models",
    "parameters",
]

REQUIRED: Any = PydanticUndefined
"""Default of a parameter that must be given."""
PLAIN = Cli()
SHORT = {"--out": "-o"}
"""Flags with a second, short spelling."""


@dataclass(frozen=True)
class Expand:
    """How a verb takes a model: which of its fields, and defaults that only this verb has.

    Attributes:
        only: names of fields; default: all.
        skip: names of fields, or of nested flags, that are left out.
        require: names of fields that this verb needs, although they have a default.
        defaults: by field name.
    """

    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    require: tuple[str, ...] = ()
    defaults: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Parameter:
    """One option of a verb.

    Attributes:
        name: keyword of the Python API, and name of the Typer parameter.
        flags: spellings on the command line, `--sym/--asym` for a pair.
        type: what the command line takes: `str`, `int`, `float`, `bool`, `Path` or a list of them.
        default: what the command line shows and uses if nothing is given.
        help: the description of the field.
        choices: the values that are allowed, for the help; empty: any.
        path: where the value goes in the model, from the outside in.
        field: the name of the field, and the model that declares it.
        cli: the marker of the field.
        panel: topic on the help page.
    """

    name: str
    flags: tuple[str, ...]
    type: Any
    default: Any
    help: str
    choices: tuple[str, ...]
    path: tuple[str, ...]
    field: tuple[type[BaseModel], str]
    cli: Cli = PLAIN
    panel: str = COMMON

    @property
    def flag(self) -> str:
        """The first spelling, without its opposite."""
        return self.flags[0].partition("/")[0]

    @property
    def typer_annotation(self) -> Any:
        """The annotation from which Typer makes its option."""
        metavar = f"[{'|'.join(self.choices)}]" if self.choices else None
        if get_origin(self.type) is list and not metavar:
            metavar = f"<{get_args(self.type)[0].__name__}>"
        option = typer.Option(
            *self.flags,
            help=self.help,
            metavar=metavar,
            rich_help_panel=self.panel,
            autocompletion=self._completed if self.choices else None,
        )
        return Annotated[self.type, option]

    def _completed(self, incomplete: str) -> list[str]:
        """The choices that begin so, for a shell."""
        return [choice for choice in self.choices if choice.startswith(incomplete)]

    @property
    def python_default(self) -> Any:
        """The default of the keyword: lists are tuples."""
        if self.cli.separator:
            return _numbers(self.default)
        if get_origin(self.type) is list and self.default is not REQUIRED:
            return tuple(self.default or ())
        return self.default

    @property
    def python_type(self) -> Any:
        """The type of the keyword."""
        if self.cli.separator or get_origin(self.type) is list:
            return Sequence[str]
        return self.type | None if self.default is None else self.type

    def value(self, given: Any) -> Any:
        """The field's value for what was typed, or passed in Python."""
        convert = self.cli.convert
        if isinstance(given, Path) and self.type is not Path:
            given = str(given)
        if self.cli.separator and isinstance(given, str):
            given = list(_numbers(given))
        if get_origin(self.type) is list and isinstance(given, str):
            given = [given]
        if convert is None:
            return given
        if isinstance(given, list | tuple):
            return [convert(one) if isinstance(one, str) else one for one in given]
        return convert(given)


@dataclass(frozen=True)
class Nested:
    """A nested model that is there only if its switch is given.

    Attributes:
        path: where it goes.
        switch: name of the parameter that switches it on.
        toggle: whether the switch has no value of its own.
        off: value of the switch that leaves the model out.
        optional: whether leaving it out must be said, as the field's default is a model.
    """

    path: tuple[str, ...]
    switch: str
    toggle: bool
    off: Any
    optional: bool


def _marker(field: FieldInfo) -> Cli:
    return next((item for item in field.metadata if isinstance(item, Cli)), PLAIN)


def _members(annotation: Any) -> list[Any]:
    """The alternatives of an annotation, without None and without bounds."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, types.UnionType):
        return [member for member in get_args(annotation) if member is not type(None)]
    return [annotation]


def _model(field: FieldInfo) -> type[BaseModel] | None:
    (first, *others) = _members(field.annotation)
    if not others and isinstance(first, type) and issubclass(first, BaseModel):
        return first
    return None


def _typed(annotation: Any, cli: Cli) -> tuple[Any, tuple[str, ...]]:
    """What the command line takes for a field, and the choices."""
    member = _members(annotation)[0]
    if get_origin(member) in (tuple, list):
        item, choices = _typed(get_args(member)[0], replace(cli, takes=None))
        item = cli.takes or item
        return (str if cli.separator else list[item]), choices
    if cli.takes is not None:
        return cli.takes, ()
    if get_origin(member) is Literal:
        values = get_args(member)
        return type(values[0]), tuple(map(str, values))
    return (member if member in (str, int, float, bool, Path) else str), ()


def parameters(
    model: type[BaseModel],
    expand: Expand | None = None,
    path: tuple[str, ...] = (),
    prefix: str = "",
) -> Iterator[Parameter]:
    """The parameters of a model, in the order of its fields.

    Args:
        model: any pydantic model.
        expand: which fields, and other defaults.
        path: where the model itself goes in another one.
        prefix: of all names, such as `lora_`.
    """
    chosen = expand or Expand()
    for name, field in model.model_fields.items():
        cli = _marker(field)
        if cli.hidden or name in chosen.skip or (chosen.only and name not in chosen.only):
            continue
        place = (*path, name)
        inner = _model(field)
        below = Expand(skip=(*chosen.skip, *cli.skip))
        if cli.flags:
            yield from parameters(cli.flags, below, place, prefix)
        elif inner:
            yield from _nested(model, name, inner, below, place, prefix)
        else:
            default = (chosen.defaults or {}).get(name, field.get_default())
            needed = cli.required or name in chosen.require
            yield _single(model, name, place, prefix, REQUIRED if needed else default)


def _single(
    model: type[BaseModel], name: str, path: tuple[str, ...], prefix: str, default: Any
) -> Parameter:
    field = model.model_fields[name]
    cli = _marker(field)
    kind, choices = _typed(field.annotation, cli)
    flag = cli.name or _flag(prefix + name)
    if kind is bool and not cli.name:
        flag = f"{flag}/{_flag('no_' + prefix + name)}"
    if cli.separator:
        default = ",".join(map(str, default or ()))
    elif get_origin(kind) is list and default is not REQUIRED:
        default = list(default) if default else None
    return Parameter(
        flag.partition("/")[0].removeprefix("--").replace("-", "_"),
        (flag, SHORT[flag]) if flag in SHORT else (flag,),
        kind,
        default,
        field.description or "",
        choices,
        path,
        (model, name),
        cli,
        COMMON if default is REQUIRED else panel_of(model, name),
    )


def _nested(
    model: type[BaseModel],
    name: str,
    inner: type[BaseModel],
    below: Expand,
    path: tuple[str, ...],
    prefix: str,
) -> Iterator[Parameter]:
    """The switch of a nested model, if it has one, and its other fields under its prefix."""
    field = model.model_fields[name]
    cli = _marker(field)
    under = f"{prefix}{name}_" if cli.prefix is None else cli.prefix
    own = field.description or ""
    if cli.toggle:
        flag = f"{_flag(prefix + name)}/{_flag('no_' + prefix + name)}"
        yield Parameter(
            prefix + name,
            (flag,),
            bool,
            False,
            own,
            (),
            path,
            (model, name),
            cli,
            panel_of(model, name),
        )
    inside = sorted(
        parameters(inner, below, path, under), key=lambda p: p.path != (*path, cli.switch)
    )
    for parameter in inside:
        if parameter.path != (*path, cli.switch):
            yield parameter
            continue
        help = f"{own}; {parameter.help}" + (f"; {cli.off}: off" if cli.off is not None else "")
        flags = (_flag(prefix + name), *parameter.flags)
        yield replace(parameter, name=prefix + name, flags=flags, default=cli.off, help=help)


def nested_models(
    model: type[BaseModel], path: tuple[str, ...] = (), prefix: str = ""
) -> Iterator[Nested]:
    """The nested models that a switch leaves out, innermost first."""
    for name, field in model.model_fields.items():
        cli = _marker(field)
        inner = _model(field)
        if cli.hidden:
            continue
        place = (*path, name)
        if cli.flags:
            yield from nested_models(cli.flags, place, prefix)
        elif inner:
            under = f"{prefix}{name}_" if cli.prefix is None else cli.prefix
            yield from nested_models(inner, place, under)
            if cli.switch or cli.toggle:
                optional = field.get_default() is not None
                yield Nested(place, prefix + name, cli.toggle, cli.off, optional)


def composed_fields(model: type[BaseModel]) -> tuple[str, ...]:
    """Fields whose value is more than one option: nested models and lists of them."""
    return tuple(
        name
        for name, field in model.model_fields.items()
        if _model(field) or _marker(field).flags or _marker(field).convert
    )


def expand(model: type[BaseModel], tree: dict[str, Any]) -> dict[str, Any]:
    """Replace flags that stand for a field by the field's value; add required nested models.

    Raises:
        ValidationError: such a flag has a wrong value.
    """
    done = dict(tree)
    for name, field in model.model_fields.items():
        inner = _model(field)
        flags = _marker(field).flags
        if inner and field.is_required():
            done.setdefault(name, {})
        if inner and isinstance(done.get(name), dict):
            done[name] = expand(inner, done[name])
        if flags and isinstance(done.get(name), dict):
            shorthand: Any = flags.model_validate(done[name])
            done[name] = shorthand.expand(done)
    return done


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _numbers(text: str) -> tuple[int | str, ...]:
    parts = [part for part in text.split(",") if part]
    return tuple(int(part) if part.lstrip("-").isdigit() else part for part in parts)
