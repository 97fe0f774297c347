"""Reads recipes from YAML files. All errors of a file are reported at once, each with its line."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import takewhile
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..documents import YAML_BYTES, parse_yaml, read_text
from ..errors import UsageError, suggestion
from .recipe import Recipe
from .recipe_errors import Keys, RecipeText, error_lines

__all__ = ["ROOT", "builtin_recipe", "is_recipe", "load_recipe", "recipe_names", "shipped_recipes"]

ROOT = Path(__file__).parents[1]


def builtin_recipe(name: str) -> Path:
    """The path of a recipe that ships with edgewright."""
    return ROOT / "recipes" / f"{name}.yaml"


def recipe_names() -> list[str]:
    """The names of the recipes that ship with edgewright."""
    return sorted(file.stem for file in (ROOT / "recipes").glob("*.yaml"))


def shipped_recipes() -> list[dict[str, Any]]:
    """What ships with edgewright: name, model, target and purpose of each recipe."""
    return [_introduced(builtin_recipe(name)) for name in recipe_names()]


def _introduced(path: Path) -> dict[str, Any]:
    """What a recipe says of itself: the comment above it, up to its commands."""
    text = path.read_text(encoding="utf-8")
    comment = takewhile(lambda line: line.startswith("# ") and line[2] != " ", text.splitlines())
    _, data = parse_yaml(text, str(path), "")
    purpose = " ".join(line.removeprefix("# ") for line in comment)
    return {
        "name": path.stem,
        "model": data["model"],
        "target": data.get("target"),
        "purpose": purpose,
    }


def is_recipe(text: str) -> bool:
    """Whether a text names a recipe: a YAML file, or one that ships with edgewright.

    A model directory of that name comes first.
    """
    if text.endswith((".yaml", ".yml")):
        return True
    return text in recipe_names() and not Path(text, "config.json").is_file()


def load_recipe(path: Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read and check a recipe. One without a name has that of its file.

    Args:
        path: a YAML file, or the name of a recipe that ships with edgewright.
        overrides: `KEY=VALUE` strings. KEY is a dotted path, in which the name or the number of a
            step stands for it (`model=DIR`, `steps.prune.heads=0.5`, `evaluate.limit=50`); VALUE
            is YAML.

    Raises:
        UsageError: with every error in the file and its line.
    """
    if not path.is_file() and str(path) in recipe_names():
        path = builtin_recipe(str(path))
    if not path.is_file():
        near = suggestion(path.stem, recipe_names())
        raise UsageError(
            f"{path}: no such recipe",
            f"{near}give the path of a YAML file, or one of these names: "
            f"{', '.join(recipe_names())}",
        )
    hint = "fix the YAML at that line"
    tree, data = parse_yaml(read_text(path, hint, YAML_BYTES), str(path), hint)
    if not isinstance(data, dict):
        raise UsageError(
            f"{path}: a recipe is a mapping with `model` and `steps`",
            "`edgewright recipe schema` lists all options",
        )
    changes = [(_override(data, override), override) for override in overrides]
    data.setdefault("name", path.stem)
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        lines = error_lines(RecipeText(path, tree, data, changes), error)
        count = f"{len(lines)} error{'s' if len(lines) > 1 else ''}"
        raise UsageError(
            "\n  ".join([f"{path}: {count} in the recipe", *lines]),
            "fix them and run the command again; `edgewright recipe schema` lists all options",
        ) from error


def _override(data: dict[str, Any], override: str) -> Keys:
    """Set one value of the recipe, and return its keys."""
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise UsageError(
            f"--set {override}: not KEY=VALUE",
            "write --set model=DIR or --set steps.prune.heads=0.5",
        )
    _, new = parse_yaml(value, f"--set {override}", "quote it, or write it as in a recipe")
    *outer, last = _parts(key)
    place: Any = data
    keys: Keys = ()
    for part in outer:
        at = _key(place, part, override, keys)
        if isinstance(place, dict) and (place.get(at) is None or isinstance(place[at], str)):
            place[at] = {}  # a missing part becomes a new mapping
        place = place[at]
        keys = (*keys, at)
    at = _key(place, last, override, keys)
    place[at] = new
    return (*keys, at)


def _parts(key: str) -> list[str]:
    """The parts of a dotted key; a metric in `gate.limits` keeps its own dots."""
    limits = "gate.limits."
    if not key.startswith(limits):
        return key.split(".")
    metric, _, bound = key.removeprefix(limits).rpartition(".")
    return ["gate", "limits", metric, bound]


def _key(place: Any, part: str, override: str, outer: Keys) -> int | str:
    """The key or index that one part of an override's key stands for."""
    if isinstance(place, list):
        return _position(place, part, override)
    if isinstance(place, dict):
        return part
    raise UsageError(
        f"--set {override}: `{outer[-1]}` is a value and has no parts",
        "leave out the last part of the key",
    )


def _position(steps: list[Any], part: str, override: str) -> int:
    """The index of a step by its name or its number."""
    names = [str(s.get("name") or s.get("kind")) if isinstance(s, dict) else str(s) for s in steps]
    if part in names:
        return names.index(part)
    if part.isdigit() and int(part) < len(steps):
        return int(part)
    hint = f"{suggestion(part, names)}steps: {', '.join(names)}"
    raise UsageError(f"--set {override}: no step `{part}`", hint)
