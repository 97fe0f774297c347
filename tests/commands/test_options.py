"""Options are declared once: the command line, the recipe schema and Python agree on them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from edgewright.cli import app
from edgewright.commands import compress, deliver, measure, project
from edgewright.commands.options import REQUIRED, Parameter
from edgewright.commands.verb import Verb
from edgewright.pipeline.recipe import Recipe

CONTRACT = Path(__file__).with_name("options.json")
"""Flags and defaults of every verb that scripts rely on. A flag here may not go or change."""
VERBS = [
    found
    for module in (compress, deliver, measure, project)
    for found in vars(module).values()
    if isinstance(found, Verb)
]
OPTIONS = [(verb, option) for verb in VERBS for option in verb.options]
OWN_DEFAULTS = {"kv-study --samples"}
"""Options whose default differs from the field's in one verb."""
ONLY_FLAGS = ("hidden_steps", "logit_steps", "label_steps")
"""Flags that stand for the `stages` of a recipe."""
NO_VERB = ("Recipe", "Gate", "Limit", "Rule")
"""Models that verbs take as a file (a recipe, a policy) or as one flag (`--rule`)."""
ONLY_RECIPES = [
    "Budget.target",  # --target
    "Stage.loss",  # --hidden-steps and its like
    "Stage.steps",
    "Stage.data",  # --data of the whole step
]
HEAVY = ("torch", "transformers", "onnxruntime", "onnx", "numpy")


def commands(command: Any, name: str = "") -> dict[str, Any]:
    """Every command of the command line by what is typed."""
    found = {name: command}
    for word, inner in getattr(command, "commands", {}).items():
        found |= commands(inner, f"{name} {word}".strip())
    return found


COMMANDS = commands(typer.main.get_command(app))


def named(pair: tuple[Verb, Parameter]) -> str:
    return f"{pair[0].name} {pair[1].flag}"


def shown(value: Any) -> Any:
    """A default as JSON has it."""
    return json.loads(json.dumps(value, default=str))


def test_flags_and_defaults_that_scripts_rely_on_stay() -> None:
    for verb, flags in json.loads(CONTRACT.read_text()).items():
        defaults = {
            flag: (option.required, shown(option.default))
            for option in COMMANDS[verb].params
            for flag in (*option.opts, *option.secondary_opts)
        }
        found = {flag: list(defaults[flag]) for flag in flags if flag in defaults}
        assert found == flags, verb


def test_every_verb_is_registered() -> None:
    typed = {name.split()[-1] for name in COMMANDS if name}
    assert {verb.name for verb in VERBS} == typed


def test_help_of_every_verb_imports_nothing_heavy() -> None:
    script = (
        "import sys\n"
        "from edgewright.cli import app\n"
        "for line in sys.stdin.read().splitlines():\n"
        "    app([*line.split(), '--help'], standalone_mode=False)\n"
        f"print(sorted(m for m in {HEAVY} if m in sys.modules), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        input="\n".join(COMMANDS),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr.strip() == "[]"
    assert done.stdout.count("Usage:") == len(COMMANDS)


@pytest.mark.parametrize(("verb", "option"), OPTIONS, ids=map(named, OPTIONS))
def test_an_option_has_the_text_and_default_of_its_field(verb: Verb, option: Parameter) -> None:
    model, name = option.field
    field = model.model_fields[name]
    assert field.description
    assert field.description in option.help
    command = next(c for n, c in COMMANDS.items() if n.split()[-1:] == [verb.name])
    made = next(one for one in command.params if one.name == option.name)
    assert made.help == option.help
    assert made.opts[0] == option.flag
    keyword = verb.signature.parameters[option.name]
    assert made.required == (option.default is REQUIRED) == (keyword.default is keyword.empty)
    if not made.required:
        assert made.default == option.default
        assert keyword.default == option.python_default
    switch = option.cli.toggle or len(option.flags) > 1
    if not made.required and not switch and named((verb, option)) not in OWN_DEFAULTS:
        assert (keyword.default or None) == (field.get_default() or None)


def properties(schema: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """The model, name and schema of every property of a recipe."""
    for model, own in {"Recipe": schema, **schema["$defs"]}.items():
        for name, value in own.get("properties", {}).items():
            yield model, name, value


PROPERTIES = list(properties(Recipe.model_json_schema(by_alias=True)))
OF_RECIPES = ("compress", "export", "benchmarks.options", "benchmarks.traces", "steps")
"""Modules whose options recipes have too."""


def is_nested(value: dict[str, Any]) -> bool:
    return "$ref" in json.dumps(value)


def test_the_recipe_has_the_options_of_verbs_with_the_same_text_and_default() -> None:
    declared = {(name, value.get("description")): value for _, name, value in PROPERTIES}
    for verb, option in OPTIONS:
        model, name = option.field
        module = model.__module__.removeprefix("edgewright.")
        if not module.startswith(OF_RECIPES) or name in ONLY_FLAGS or option.cli.toggle:
            continue
        field = model.model_fields[name]
        found = declared.get((name, field.description))
        assert found is not None, f"{verb.name} {option.flag} is no option of a recipe"
        if not field.is_required() and field.default_factory is None:
            assert found["default"] == shown(field.get_default()), (verb.name, name)


def test_every_option_of_a_recipe_is_explained_and_is_an_option_of_a_verb() -> None:
    offered = {
        (option.field[1], option.field[0].model_fields[option.field[1]].description)
        for _, option in OPTIONS
    }
    missing = [
        f"{model}.{name}"
        for model, name, value in PROPERTIES
        if model not in NO_VERB
        and name not in ("kind", "name", "from")
        and not is_nested(value)
        and (name, value.get("description")) not in offered
    ]
    assert sorted(set(missing)) == sorted(ONLY_RECIPES)


def test_names_are_unique_within_a_verb() -> None:
    for verb in VERBS:
        names = [*verb.arguments, *(option.name for option in verb.options)]
        flags = [flag for option in verb.options for flag in option.flags]
        assert len(set(names)) == len(names), verb.name
        assert len(set(flags)) == len(flags), verb.name
        declared = [option.field for option in verb.options]
        assert len(set(declared)) == len(declared), f"{verb.name}: an option is declared twice"


def test_the_reference_page_is_up_to_date() -> None:
    pages = pytest.importorskip("edgewright.docs.write_reference", reason="not in the wheel")
    assert pages.FILE.read_text() == pages.reference(), pages.__doc__
