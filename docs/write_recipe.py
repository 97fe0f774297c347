"""Writes docs/recipe.md: every key of a recipe, from its JSON Schema.

Run `python -m edgewright.docs.write_recipe` after an option or its description has changed.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from ..pipeline.recipe import Recipe
from .import_graph import ROOT

__all__ = ["FILE", "page"]

FILE = Path(__file__).with_name("recipe.md")
EXAMPLE = ROOT / "recipes" / "prune.yaml"
SHIPPED = "Recipes that ship with edgewright are named without a path:"
HEAD = """\
# Recipes

This page is written by `python -m edgewright.docs.write_recipe` from the schema of a recipe; do not
edit it.

A recipe is a YAML file with a model, a list of steps, what to measure after each of them, and a
gate. `edgewright run FILE` runs it.
{shipped}

This is `{example}`:

```yaml
{text}
```

- `edgewright plan FILE` checks that all models, data and tasks of a recipe are there, and says what
  it will need. `edgewright run FILE --dry-run` does the same for this machine.
- `--set KEY=VALUE` changes a value: `--set steps.prune.heads=0.5`.
- Without `name`, a recipe has that of its file. Its run is in `runs/NAME`, or in `--out`. A run of
  a recipe with another name is not replaced there, except with `--fresh`.
- `--set` changes one place of what an anchor (`&x`) and its aliases (`*x`) share.
- Numbers may be written as `1e-3`.
- A step reads the step before it. `from: NAME` lets it read another one; `baseline` is the model.
- A misspelt key is refused, with its line.
- `edgewright recipe schema > recipe.schema.json` prints the JSON Schema, with which editors check
  and complete the YAML.

**Your own model.** Do not run `demo` on it as it is. With `--set model=MODEL`, its distillation,
its tasks and its gate would still use the built-in arithmetic problems. Copy the file. Put your
data where it says `builtin:reasoning`, and your task where it says `reasoning`. Then type
`edgewright plan` on the copy.
"""
SHARED = ("name", "from", "kind")
"""Keys of every step."""
WORDS = {
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "object": "mapping",
}


def page() -> str:
    """The page as Markdown."""
    names = ", ".join(f"`{file.stem}`" for file in sorted((ROOT / "recipes").glob("*.yaml")))
    shipped = textwrap.fill(f"{SHIPPED} {names}.", 120, break_on_hyphens=False)
    example = EXAMPLE.relative_to(ROOT).as_posix()
    head = HEAD.format(shipped=shipped, example=example, text=EXAMPLE.read_text().strip())
    return "\n".join([head, *_Schema(Recipe.model_json_schema(by_alias=True)).sections()])


class _Schema:
    """The mappings of a recipe, in the order in which they are named.

    Args:
        schema: the JSON Schema of a recipe.
    """

    def __init__(self, schema: dict[str, Any]) -> None:
        self.top = schema
        self.known: dict[str, Any] = schema["$defs"]
        self.titles: dict[str, str] = {}
        self._name_all(schema["properties"])

    def _name_all(self, properties: dict[str, Any]) -> None:
        """Call every mapping by the key under which it is found first."""
        found = [(key, name) for key, value in properties.items() for name in _references(value)]
        new = [(key, name) for key, name in found if name not in self.titles]
        for key, name in new:
            kind = self.known[name]["properties"].get("kind", {}).get("const")
            self.titles.setdefault(name, f"`kind: {kind}`" if kind else f"`{key}`")
        for _, name in new:
            self._name_all(self.known[name]["properties"])

    def sections(self) -> Iterator[str]:
        """The sections of the page."""
        yield "## All keys\n"
        yield self._table(self.top)
        done: list[str] = []
        for name, title in self.titles.items():
            definition = self.known[name]
            yield f"## {title}\n"
            if "kind" not in definition["properties"]:
                yield f"{' '.join(definition.get('description', '').split())}\n"
            same = self._same(name, done)
            inherited = {*self.known[same]["properties"]} - {"from"} if same else set()
            more = set(definition["properties"]) - inherited
            if same:
                yield f"All keys of {self._link(same)}{', and:' if more else '.'}\n"
            if more:
                yield self._table(definition, inherited)
            done.append(name)

    def _same(self, name: str, done: list[str]) -> str:
        """An earlier mapping whose keys this one has too, those of every step left out."""
        mine = self._own(name)
        same = (other for other in done if len(self._own(other)) > 3 and self._own(other) <= mine)
        return next(same, "")

    def _own(self, name: str) -> set[str]:
        return set(self.known[name]["properties"]) - set(SHARED)

    def _link(self, name: str) -> str:
        title = self.titles[name]
        anchor = title.strip("`").lower().replace(":", "").replace(" ", "-")
        return f"[{title}](#{anchor})"

    def _table(self, definition: dict[str, Any], without: Collection[str] = ()) -> str:
        rows = ["| key | value | default | what it is |", "| --- | --- | --- | --- |"]
        for key, value in definition["properties"].items():
            if key == "kind" or key in without:
                continue
            default = "required" if key in definition.get("required", ()) else _default(value)
            text = value.get("description", "").replace("|", "\\|")
            rows.append(f"| `{key}` | {self._type(value)} | {default} | {text} |")
        return "\n".join([*rows, ""])

    def _type(self, value: dict[str, Any]) -> str:
        """What may stand there, in words."""
        if "$ref" in value:
            return self._link(value["$ref"].rpartition("/")[2])
        if "enum" in value:
            return ", ".join(f"`{choice}`" for choice in value["enum"])
        for several in ("anyOf", "oneOf", "allOf"):
            if several in value:
                kinds = [self._type(one) for one in value[several] if one.get("type") != "null"]
                return " or ".join(dict.fromkeys(kinds))
        if value.get("type") == "array":
            return f"list of {self._type(value['items'])}" if "items" in value else "list"
        return WORDS.get(value.get("type", ""), "text")


def _references(value: Any) -> Iterator[str]:
    """The mappings that a key may hold."""
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"].rpartition("/")[2]
        for name, inner in value.items():
            if name not in ("default", "discriminator"):
                yield from _references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _references(inner)


def _default(value: dict[str, Any]) -> str:
    default = value.get("default")
    if default is None or default in ("", [], {}) or isinstance(default, dict):
        return ""
    return f"`{json.dumps(default, ensure_ascii=False)}`"


if __name__ == "__main__":
    FILE.write_text(page(), encoding="utf-8")
