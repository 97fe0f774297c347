"""`edgewright recipe schema`: JSON Schema for editors, which the recipes of the project satisfy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from edgewright.pipeline.recipe_file import load_recipe

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


@pytest.fixture
def schema(cli) -> dict[str, Any]:
    code, out, _ = cli("recipe", "schema")
    assert code == 0
    return json.loads(out)


def problems(value: Any, rule: dict[str, Any], root: dict[str, Any], at: str) -> list[str]:
    """Where a value breaks a schema: the part of JSON Schema that pydantic writes."""
    if "$ref" in rule:
        rule = root["$defs"][rule["$ref"].rpartition("/")[2]] | {
            key: part for key, part in rule.items() if key != "$ref"
        }
    choices = rule.get("anyOf") or rule.get("oneOf")
    if choices:
        found = [problems(value, choice, root, at) for choice in choices]
        return min(found, key=len) if all(found) else []
    if "const" in rule and value != rule["const"]:
        return [f"{at}: {value!r} is not {rule['const']!r}"]
    if "enum" in rule and value not in rule["enum"]:
        return [f"{at}: {value!r} is not one of {rule['enum']}"]
    if not is_type(value, rule.get("type")):
        return [f"{at}: {value!r} is no {rule['type']}"]
    if isinstance(value, dict):
        return object_problems(value, rule, root, at)
    if isinstance(value, list) and isinstance(rule.get("items"), dict):
        return [
            problem
            for index, item in enumerate(value)
            for problem in problems(item, rule["items"], root, f"{at}[{index}]")
        ]
    return []


def object_problems(
    value: dict[str, Any], rule: dict[str, Any], root: dict[str, Any], at: str
) -> list[str]:
    known = rule.get("properties", {})
    others = rule.get("additionalProperties", True)
    found = [f"{at}: {name} is missing" for name in rule.get("required", ()) if name not in value]
    for name, part in value.items():
        if name in known:
            found += problems(part, known[name], root, f"{at}.{name}")
        elif isinstance(others, dict):
            found += problems(part, others, root, f"{at}.{name}")
        elif not others:
            found.append(f"{at}: unknown key {name}")
    return found


def is_type(value: Any, name: str | None) -> bool:
    kinds = {
        "object": dict,
        "array": list,
        "string": str,
        "integer": int,
        "number": int | float,
        "boolean": bool,
        "null": type(None),
    }
    if isinstance(value, bool) and name in ("integer", "number"):
        return False
    return name is None or isinstance(value, kinds[name])


@pytest.mark.parametrize("file", RECIPES, ids=lambda path: path.stem)
def test_recipes_of_the_project_satisfy_the_schema(schema: dict[str, Any], file: Path) -> None:
    assert problems(yaml.safe_load(file.read_text()), schema, schema, file.stem) == []
    load_recipe(file)


def test_the_schema_finds_what_a_recipe_must_not_have(schema: dict[str, Any]) -> None:
    good = yaml.safe_load(RECIPES[0].read_text())
    for change, word in (
        ({"modell": "x"}, "unknown key modell"),
        ({"seed": "zero"}, "is no integer"),
        ({"device": "tpu"}, "is not one of"),
        ({"steps": [{"kind": "prune", "headss": 0.5}]}, "unknown key headss"),
        ({"steps": [{"heads": 0.5}]}, "missing"),
    ):
        found = problems(good | change, schema, schema, "recipe")
        assert any(word in problem for problem in found), (change, found)


def test_the_schema_says_what_each_option_does(schema: dict[str, Any]) -> None:
    silent = [
        f"{model}.{name}"
        for model, own in {"Recipe": schema, **schema["$defs"]}.items()
        for name, value in own.get("properties", {}).items()
        if "description" not in value and name != "kind"
    ]
    assert not silent
