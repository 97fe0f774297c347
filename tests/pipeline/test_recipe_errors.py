"""Errors of a recipe name the nearest right name, and the `--set` where that gave the value."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgewright.errors import UsageError
from edgewright.pipeline.recipe_file import load_recipe

RECIPE = """\
evaluate: {tasks: [reasoning]}
steps:
  - {kind: prune, heads: 0.25}
  - {kind: quantize, name: four, bits: 4}
"""


def message_of(folder: Path, text: str, *changes: str) -> str:
    file = folder / "recipe.yaml"
    file.write_text(text)
    with pytest.raises(UsageError) as caught:
        load_recipe(file, changes)
    assert caught.value.hint
    return str(caught.value).replace(str(file), "FILE")


MISSPELT = {
    "calibraton: {}\n": "FILE:1: `calibraton` is not an option here; did you mean `calibration`?",
    "calibration: {sampels: 4}\n": "`calibration.sampels` is not an option here; did you mean "
    "`samples`?",
    "evaluate: {latency: {promt: 4}}\n": "did you mean `prompt`?",
    "gate: {candidate: a, limits: {size_bytes: {max_rato: 1}}}\n": "did you mean `max_ratio`?",
    "steps: [{kind: prune, hedas: 0.5}]\n": "`steps.0.hedas` is not an option here; did you mean "
    "`heads`?",
    "steps: [{kind: distill, stages: [{loss: hidden, step: 4}]}]\n": "did you mean `steps`?",
    "steps: [{kind: distill, student: {from: a, ritcerion: b}}]\n": "did you mean `criterion`?",
    "steps: [{kind: quantize, method: gtpq}]\n": "`steps.0.method`: use gptq, mixed, rtn, awq, "
    "int8 or smoothquant; did you mean `gptq`?",
    "gate: {candidate: a, limits: {acuracy/reasoning: {min: 1}}}\n": "did you mean "
    "accuracy/reasoning?",
    "steps: [{kind: quantise}]\n": "FILE:1: `steps.0`: no step kind `quantise`; did you mean "
    "`quantize`? (of prune, distill, iterate, quantize, export)",
    "steps: [{kind: squeeze}]\n": "no step kind `squeeze`; use one of prune, distill, iterate, "
    "quantize, export",
}


@pytest.mark.parametrize("text", MISSPELT)
def test_the_nearest_name_is_suggested(text: str, tmp_path: Path) -> None:
    assert MISSPELT[text] in message_of(tmp_path, text)


def test_a_name_like_no_option_gets_no_suggestion(tmp_path: Path) -> None:
    assert "did you mean" not in message_of(tmp_path, "zzz: 1\nsteps: [{kind: prune}]\n")


CHANGES = {
    "sede=7": "--set sede=7: `sede` is not an option here; did you mean `seed`?",
    "calibraton.source=x": "--set calibraton.source=x: `calibraton` is not an option",
    "steps.prune.hedas=0.5": "--set steps.prune.hedas=0.5: `steps.0.hedas`",
    "steps.prune.heads=2": "--set steps.prune.heads=2: `steps.0.heads`: Input should be less than "
    "1: it is a share between 0 and 1",
    "steps.four.kind=quantise": "--set steps.four.kind=quantise",
    "steps.four.method=int8": "FILE:4, with --set steps.four.method=int8: ",
    "evaluate.tasks.9=x": "--set evaluate.tasks.9=x: no step `9`",
    "steps.prune.heads.a.b=1": "--set steps.prune.heads.a.b=1: `heads` is a value",
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_mistake_in_a_change_is_blamed_on_the_change(change: str, tmp_path: Path) -> None:
    found = message_of(tmp_path, RECIPE, "seed=1", change)
    assert CHANGES[change] in found
    assert "--set seed=1" not in found


def test_a_mistake_in_the_file_is_blamed_on_its_line(tmp_path: Path) -> None:
    text = RECIPE.replace("bits: 4", "bits: 5")
    assert "FILE:4: `steps.1.bits`" in message_of(tmp_path, text, "steps.prune.heads=0.5")


def test_what_follows_from_another_mistake_is_not_reported(tmp_path: Path) -> None:
    steps = "steps:\n  - {kind: distill, student: {ffn: 0.5}}\n"
    found = message_of(tmp_path, steps).splitlines()
    assert found == [
        "FILE: 1 error in the recipe",
        "  FILE:2: `steps.0.student.from`: is missing",
    ]
    steps = "steps:\n  - {kind: distill, stages: [{loss: hidden}]}\n"
    found = message_of(tmp_path, steps).splitlines()
    assert found[1:] == ["  FILE:2: `steps.0.stages.0.steps`: is missing"]


def test_numbers_that_yaml_takes_for_text(tmp_path: Path) -> None:
    """YAML 1.1 reads 1e-3 as text; it must not become another learning rate in silence."""
    file = tmp_path / "recipe.yaml"
    file.write_text(
        "steps:\n  - kind: distill\n    stages:\n      - {loss: logits, steps: 5, lr: 1e-3}\n"
    )
    assert load_recipe(file).steps[0].stages[0].lr == 0.001
