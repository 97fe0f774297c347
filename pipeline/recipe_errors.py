"""Says what is wrong with a recipe: one line for each error, with its place and the nearest name.

The place is a line of the file, or the `--set` that gave the value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from ..errors import nearest
from ..steps.option_errors import reason
from .recipe import Recipe
from .registry import STEPS

__all__ = ["Keys", "RecipeText", "error_lines"]

Keys = tuple[int | str, ...]
"""The keys and indices that lead from the whole recipe to a value."""


@dataclass(frozen=True)
class RecipeText:
    """Where the values of a recipe come from.

    Attributes:
        path: the YAML file.
        tree: the file as YAML nodes, which know their lines.
        data: the values, with all changes.
        changes: keys and text of every `--set`, in order.
    """

    path: Path
    tree: yaml.Node | None
    data: Any
    changes: Sequence[tuple[Keys, str]]


def error_lines(text: RecipeText, errors: ValidationError) -> list[str]:
    """One line for each error of a recipe."""
    lines: list[str] = []
    found = errors.errors()
    for error in found:
        if _is_consequence(error, found):
            continue
        location = tuple(error.get("ctx", {}).get("at") or error["loc"])
        keys = _plain(text.data, location, is_missing=error["type"] == "missing")
        lines.append(f"{_place(text, keys)}: {_message(error, location, keys)}")
    return lines


def _is_consequence(error: Any, errors: Sequence[Any]) -> bool:
    """Whether an error only follows from another one.

    So does a list that is too short without its wrong items, and a mapping that was tried as a
    name, which some options take instead.
    """
    location = error["loc"]
    is_outer = any(_begins(other["loc"], location) and other["loc"] != location for other in errors)
    return (
        error["type"] == "default_factory_not_called"
        or (error["type"] == "too_short" and is_outer)
        or (error["type"] == "string_type" and isinstance(error["input"], dict))
    )


def _message(error: Any, location: Keys, keys: Keys) -> str:
    where = ".".join(map(str, keys)) or "recipe"
    kinds = ", ".join(STEPS)
    if error["type"] == "union_tag_invalid":
        kind = error["ctx"]["tag"]
        near = _nearest(kind, STEPS)
        advice = f"{near} (of {kinds})" if near else f"; use one of {kinds}"
        return f"`{where}`: no step kind `{kind}`{advice}"
    if error["type"] == "union_tag_not_found":
        return f"`{where}`: a step needs its `kind`, one of {kinds}"
    if error["type"] == "extra_forbidden":
        near = _nearest(str(location[-1]), _options_at(location[:-1]))
        return f"`{where}` is not an option here{near}"
    if error["type"] in ("model_type", "model_attributes_type"):
        return f"`{where}`: takes options, each written as `KEY: VALUE`"
    return f"`{where}`: {reason(error)}"


def _nearest(name: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    near = nearest(name, known)
    return near and f"; did you mean `{near}`?"


def _plain(data: Any, location: Keys, *, is_missing: bool) -> Keys:
    """The keys of a location as they are in the recipe: without pydantic's tags for unions."""
    keys = list[int | str]()
    for part in location:
        children: Any = dict(enumerate(data)) if isinstance(data, list) else data
        if isinstance(children, dict) and part in children:
            data = children[part]
            keys.append(part)
    return (*keys, location[-1]) if is_missing else tuple(keys)


def _place(text: RecipeText, keys: Keys) -> str:
    """The `--set` that gave a value, or else `FILE:LINE` of the deepest key that the file has."""
    node = text.tree
    line = 1
    depth = 0
    for part in keys:
        child = _child(node, part)
        if child is None:
            break
        node, line = child
        depth += 1
    inside = list[str]()
    for changed, words in reversed(text.changes):
        if keys[: len(changed)] == changed or (depth < len(keys) and _begins(changed, keys)):
            return f"--set {words}"
        if _begins(changed, keys):
            inside.append(f"--set {words}")
    return f"{text.path}:{line}" + "".join(f", with {words}" for words in reversed(inside))


def _begins(longer: Keys, shorter: Keys) -> bool:
    return longer[: len(shorter)] == shorter


def _child(node: yaml.Node | None, part: int | str) -> tuple[yaml.Node, int] | None:
    """The node under a key or an index, and its line."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(part):
                return value, key.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part], node.value[part].start_mark.line + 1
    return None


def _options_at(location: Keys) -> list[str]:
    """The names of all options at a location, by the recipe's JSON Schema."""
    schema = Recipe.model_json_schema(by_alias=True)
    definitions = schema["$defs"]
    node: Mapping[str, Any] = schema
    for part in location:
        node = _below(node, part, definitions)
    return [name for one in _forms(node, definitions) for name in one.get("properties", {})]


def _forms(node: Mapping[str, Any], definitions: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """A node of the schema and all its alternatives, with references followed."""
    if "$ref" in node:
        node = definitions[node["$ref"].rpartition("/")[2]]
    yield node
    for key in ("anyOf", "oneOf", "allOf"):
        for one in node.get(key, ()):
            yield from _forms(one, definitions)


def _below(
    node: Mapping[str, Any], part: int | str, definitions: Mapping[str, Any]
) -> Mapping[str, Any]:
    """The schema of what is under a key, an index or a step's kind."""
    forms = list(_forms(node, definitions))
    for one in forms:
        kinds: Mapping[str, str] = one.get("discriminator", {}).get("mapping", {})
        if part in kinds:
            return {"$ref": kinds[str(part)]}
    found = [one["properties"][part] for one in forms if part in one.get("properties", {})]
    others = "items" if isinstance(part, int) else "additionalProperties"
    found = found or [one[others] for one in forms if isinstance(one.get(others), dict)]
    return {"anyOf": found} if found else node
