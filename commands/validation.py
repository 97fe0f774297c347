"""Makes a valid model of options that were typed or passed in Python. Errors name the options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from ..console import console
from ..errors import UsageError
from ..steps.option_errors import reason
from .options import Nested, Parameter, expand, nested_models

__all__ = ["validated"]

M = TypeVar("M", bound=BaseModel)
Tree = dict[str, Any]
"""Values of a model's fields; those of a nested model are a tree again."""


def validated(
    model: type[M],
    declared: Sequence[Parameter],
    given: Mapping[str, Any],
    *,
    in_python: bool = False,
) -> M:
    """An instance of a model from the options that were given.

    Args:
        model: the model.
        declared: its parameters.
        given: values by the name of a parameter; or by the name of a field, which may hold a whole
            nested model. Only what the user gave: other defaults may follow from it.
        in_python: errors name keywords instead of flags.

    Raises:
        UsageError: naming every option that is wrong.
    """
    names = {p.name: p.name if in_python else p.flag for p in declared}
    tree = _assembled(declared, given, names)
    for nested in nested_models(model):
        _switch(tree, nested, declared, given, names)
    try:
        return model.model_validate(expand(model, tree))
    except ValidationError as error:
        raise UsageError(
            "; ".join(_message(one, declared, names) for one in error.errors()),
            "see --help for what each option takes",
        ) from error


def _assembled(
    declared: Sequence[Parameter], given: Mapping[str, Any], names: Mapping[str, str]
) -> Tree:
    """The given values, each at its place in the model."""
    parameters = {p.name: p for p in declared}
    tree = Tree()
    for name, value in given.items():
        parameter = parameters.get(name)
        if value is None or (parameter and parameter.cli.separator and value == ""):
            continue
        if parameter is None or isinstance(value, Mapping | BaseModel):
            tree[name] = value
        elif not parameter.cli.toggle:
            _put(tree, parameter.path, parameter.value(value), names[name])
    return tree


def _put(tree: Tree, path: Sequence[str], value: Any, name: str) -> None:
    *outer, last = path
    for part in outer:
        tree = tree.setdefault(part, {})
        if not isinstance(tree, dict):
            raise UsageError(f"{name}: {part} is given as a whole", f"put it into {part}")
    tree[last] = value


def _switch(
    tree: Tree,
    nested: Nested,
    declared: Sequence[Parameter],
    given: Mapping[str, Any],
    names: Mapping[str, str],
) -> None:
    """Leave a nested model out unless its switch is given.

    Raises:
        UsageError: strict options of the nested model are given, and its switch is not.
    """
    switch = given.get(nested.switch)
    if nested.switch not in names or isinstance(switch, Mapping | BaseModel):
        return
    if switch if nested.toggle else switch not in (None, nested.off):
        if nested.toggle:
            _put(tree, nested.path, _at(tree, nested.path) or {}, names[nested.switch])
        return
    others = [
        p
        for p in declared
        if p.path[: len(nested.path)] == nested.path
        and p.name != nested.switch
        and given.get(p.name) not in (None, "")
    ]
    if others and switch is None:
        _refuse_or_warn(others, names, names[nested.switch])
    if nested.optional or _at(tree, nested.path) is not None:
        _put(tree, nested.path, None, names[nested.switch])


def _refuse_or_warn(others: Sequence[Parameter], names: Mapping[str, str], switch: str) -> None:
    """Options of a nested model without its switch have no effect."""
    given = " and ".join(names[p.name] for p in others)
    if any(p.cli.strict for p in others):
        verb = "need" if len(others) > 1 else "needs"
        raise UsageError(
            f"{given} {verb} {switch}, which is not given",
            f"give {switch} too, or leave {given} out",
        )
    verb = "have" if len(others) > 1 else "has"
    console.print(f"warning: {given} {verb} no effect without {switch}", highlight=False)


def _at(tree: Any, path: Sequence[str]) -> Any:
    for part in path:
        if not isinstance(tree, dict):
            return None
        tree = tree.get(part)
    return tree


def _message(error: Any, declared: Sequence[Parameter], names: Mapping[str, str]) -> str:
    """One error of pydantic, with the option that it is about."""
    place = tuple(part for part in error["loc"] if isinstance(part, str))
    option = next(
        (names[p.name] for p in declared if place and p.path[-len(place) :] == place),
        ".".join(map(str, error["loc"])),
    )
    if error["type"] == "literal_error":
        return f"{option} {error['input']}: {reason(error)}"
    return f"{option}: {reason(error)}" if option else reason(error)
