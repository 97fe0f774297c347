"""Reads recipes from YAML files. All errors of a file are reported at once, each with its line."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from ..errors import UsageError
from .recipe import Recipe

__all__ = ["ROOT", "builtin_recipe", "load_recipe"]

ROOT = Path(__file__).parents[1]


def builtin_recipe(name: str) -> Path:
    """The path of a recipe that ships with edgewright."""
    return ROOT / "recipes" / f"{name}.yaml"


def load_recipe(path: Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read and check a recipe.

    Args:
        path: a YAML file.
        overrides: `KEY=VALUE` strings. KEY is a dotted path, in which the name or the number of a
            step stands for it (`model=DIR`, `steps.prune.heads=0.5`, `evaluate.limit=50`); VALUE
            is YAML.

    Raises:
        UsageError: with every error in the file and its line.
    """
    if not path.is_file():
        raise UsageError(
            f"{path}: no such recipe", "give the path of a YAML file, or see `edgewright demo`"
        )
    try:
        text = path.read_text(encoding="utf-8")
        tree = yaml.compose(text)
        data = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not valid YAML: {error}", "fix the YAML at that line") from error
    if not isinstance(data, dict):
        raise UsageError(
            f"{path}: a recipe is a mapping with `model` and `steps`", "see recipes/demo.yaml"
        )
    for override in overrides:
        _override(data, override)
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        lines = [f"  {_place(path, tree, _location(e))}: {_message(e)}" for e in error.errors()]
        count = f"{len(lines)} error{'s' if len(lines) > 1 else ''}"
        raise UsageError(
            "\n".join([f"{path}: {count} in the recipe", *lines]),
            "fix them and run the command again",
        ) from error


def _location(error: Any) -> tuple[int | str, ...]:
    """The keys and indices that lead to the place of an error."""
    return tuple(error.get("ctx", {}).get("at") or error["loc"])


def _message(error: Any) -> str:
    where = ".".join(str(part) for part in _location(error)) or "recipe"
    if error["type"] == "extra_forbidden":
        return f"`{where}` is not an option here"
    return f"`{where}`: {error['msg'].removeprefix('Value error, ')}"


def _place(path: Path, tree: yaml.Node | None, location: tuple[int | str, ...]) -> str:
    """`FILE:LINE` of the deepest node of `location` that the file has."""
    node = tree
    line = 1
    for part in location:
        child = _child(node, part)
        if child is None:
            continue  # a tag that pydantic adds for a union, or a key that is missing
        node, line = child
    return f"{path}:{line}"


def _child(node: yaml.Node | None, part: int | str) -> tuple[yaml.Node, int] | None:
    """The node under a key or an index, and its line."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(part):
                return value, key.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part], node.value[part].start_mark.line + 1
    return None


def _override(data: dict[str, Any], override: str) -> None:
    """Set one value of the recipe."""
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise UsageError(
            f"--set {override}: not KEY=VALUE",
            "write --set model=DIR or --set steps.prune.heads=0.5",
        )
    *path, last = _parts(key)
    try:
        new = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UsageError(
            f"--set {override}: the value is not valid YAML",
            "quote it, or write it as in a recipe",
        ) from error
    place = _reach(data, path, override)
    if isinstance(place, list):
        place[_position(place, last, override)] = new
    else:
        place[last] = new


def _parts(key: str) -> list[str]:
    """The parts of a dotted key; a metric in `gate.limits` keeps its own dots."""
    limits = "gate.limits."
    if not key.startswith(limits):
        return key.split(".")
    metric, _, bound = key.removeprefix(limits).rpartition(".")
    return ["gate", "limits", metric, bound]


def _reach(data: Any, path: list[str], override: str) -> Any:
    """The mapping or list that holds the last part of the key of an override."""
    for part in path:
        data = _descend(data, part, override)
    if not isinstance(data, dict | list):
        raise UsageError(
            f"--set {override}: `{path[-1]}` is a value and has no parts",
            "leave out the last part of the key",
        )
    return data


def _descend(place: Any, part: str, override: str) -> Any:
    """What is under one part of a key; a missing part becomes a new mapping."""
    if isinstance(place, list):
        return place[_position(place, part, override)]
    if isinstance(place.get(part), str) or place.get(part) is None:
        place[part] = {}
    return place[part]


def _position(steps: list[Any], part: str, override: str) -> int:
    """The index of a step by its name or its number."""
    names = [str(s.get("name") or s.get("kind")) for s in steps]
    if part in names:
        return names.index(part)
    if part.isdigit() and int(part) < len(steps):
        return int(part)
    raise UsageError(f"--set {override}: no step `{part}`", f"steps: {', '.join(names)}")
