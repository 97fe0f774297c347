"""Every place that a verb reads or writes is declared, checked before work, and locked."""

from __future__ import annotations

from pathlib import Path
from typing import get_args, get_origin

import pytest

from edgewright.commands import compress, deliver, measure, project
from edgewright.commands.options import Parameter
from edgewright.commands.places import input_named, marker_of
from edgewright.commands.verb import Verb
from edgewright.pipeline.recipe import Recipe
from edgewright.steps.places import Reads, Writes, named_places

VERBS = {
    found.name: found
    for module in (compress, deliver, measure, project)
    for found in vars(module).values()
    if isinstance(found, Verb)
}
NO_PLACES = {
    "--align-layers",
    "--api-key-variable",
    "--comment",  # a name for the comment of a pull request
    "--freeze",
    "--host",
    "--jetpack",
    "--llama-server",  # on the device
    "--lora-targets",
    "--objective",
    "--precision",
    "--python",  # on the device
    "--remote-dir",  # on the device
    "--rule",
    "--served-model",
    "--set",  # the recipe with its changes is read, and all of its places
    "--budget-over",
    "--budget-precision",
}
"""Options that take words, and name no file or directory of this machine."""


def marker(option: Parameter) -> Reads | Writes | None:
    model, name = option.field
    found = model.model_fields[name].metadata
    return next((one for one in found if isinstance(one, Reads | Writes)), None)


def takes_words(option: Parameter) -> bool:
    kind = get_args(option.type)[0] if get_origin(option.type) is list else option.type
    numbers = option.cli.separator and option.default not in ("", None)
    return kind in (str, Path) and not option.choices and not numbers


@pytest.mark.parametrize("name", VERBS)
def test_every_option_that_may_name_a_place_is_declared(name: str) -> None:
    numbers = ("batches", "prompts", "bits", "scales", "concurrency", "request_rate")
    undeclared = [
        option.flag
        for option in VERBS[name].options
        if takes_words(option)
        and not marker(option)
        and option.flag not in NO_PLACES
        and not (option.cli.separator and option.name in numbers)
    ]
    assert not undeclared
    arguments = {one: marker_of(hint) for one, hint in VERBS[name].arguments.items()}
    assert all(arguments.values()) or name == "show"  # the name of a device


def test_options_that_name_no_place_are_still_there() -> None:
    flags = {option.flag for verb in VERBS.values() for option in verb.options}
    assert flags >= NO_PLACES


def test_the_places_of_a_recipe_are_declared() -> None:
    recipe = Recipe.model_validate(
        {
            "model": "a",
            "target": "b",
            "calibration": {"source": "text:c"},
            "traces": {"prompts": "jsonl:d"},
            "evaluate": {"perplexity": ["text:e"], "tasks": ["qa:f"]},
            "steps": [
                {
                    "kind": "distill",
                    "teacher": "g",
                    "student": {"from": "h", "heads": 0.5},
                    "teacher_cache": {"path": "i"},
                    "stages": [{"loss": "logits", "steps": 1, "data": "text:j"}],
                },
                {"kind": "iterate", "prune": {"heads": 0.5}, "held_out": "text:k"},
            ],
        }
    )
    named = {one.text.rpartition(":")[2]: type(one.marker) for one in named_places(recipe)}
    assert set("abcdefghijk") <= named.keys()
    assert named["i"] is Writes


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("model", "model"),
        ("text:data.txt", "data.txt"),
        ("jsonl:data.txt:field", "data.txt"),
        ("jsonl:data.txt:field[-10:]", "data.txt"),
        ("jsonl:data.txt[:10]", "data.txt"),
        ("qa:data.txt", "data.txt"),
        ("qa:parquet:data.txt", "data.txt"),
        ("lm-eval:data.txt", "data.txt"),
        ("with:colon", "with:colon"),
        ("jsonl:with:colon:field", "with:colon"),
        ("model:step", "model"),
        ("builtin:model", None),
        ("gym:model", None),
        ("org/name", None),
        ("org/name@main", None),
        ("hf:org/name", None),
        ("x" * 5000, None),
        ("a\0b", None),
    ],
)
def test_the_path_in_an_input(
    text: str, path: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model").mkdir()
    Path("data.txt").write_text("text")
    Path("with:colon").write_text("text")
    assert input_named(text) == (Path(path) if path else None)
