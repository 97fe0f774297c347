"""The values that a recipe is read with: anchors, numbers, and its own name."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from edgewright.errors import UsageError
from edgewright.pipeline.recipe_file import load_recipe


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "recipe.yaml"
    file.write_text(dedent(text))
    return file


def refused(tmp_path: Path, text: str) -> str:
    with pytest.raises(UsageError) as caught:
        load_recipe(write(tmp_path, text))
    return str(caught.value)


def test_set_changes_one_place_of_what_an_anchor_shares(tmp_path: Path) -> None:
    shared = """\
        steps:
          - {kind: distill, name: one, stages: &all [{loss: labels, steps: 1}]}
          - {kind: distill, name: two, stages: *all}
        """
    recipe = load_recipe(write(tmp_path, shared), ["steps.one.stages.0.steps=3"])
    assert [step.stages[0].steps for step in recipe.steps] == [3, 1]


def test_numbers_with_an_exponent(tmp_path: Path) -> None:
    text = """\
        evaluate: {limit: 1e2}
        steps: [{kind: prune, heads: 5e-1}]
        gate: {candidate: prune, limits: {kl/reasoning: {max: 1e-3}}, resamples: 1E4}
        """
    recipe = load_recipe(write(tmp_path, text), ["seed=1e1"])
    assert (recipe.evaluate.limit, recipe.steps[0].heads, recipe.seed) == (100, 0.5, 10)
    assert (recipe.gate.resamples, recipe.gate.limits["kl/reasoning"].max) == (10_000, 0.001)
    named = text.replace("kind: prune", "kind: prune, name: 1e3").replace("gate:", "# ")
    message = str(refused(tmp_path, named))
    assert "recipe.yaml:2: `steps.0.name`: 1000.0 is no text: write it in quotes" in message


def test_a_recipe_without_a_name_has_that_of_its_file(tmp_path: Path) -> None:
    file = tmp_path / "my v2.yaml"
    file.write_text("steps: [{kind: prune, heads: 0.5}]\n")
    assert load_recipe(file).name == "my v2"
    assert load_recipe(file, ["name=other"]).name == "other"
    empty = refused(tmp_path, "name: ''\nsteps: [{kind: prune, heads: 0.5}]\n")
    assert "recipe.yaml:1: `name`: String should have at least 1 character" in str(empty)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("samples", "the run itself writes it"),
        ("traces.jsonl", "the run itself writes it"),
        ("traces.report.json", "the run itself writes it"),
        ("first.last-good", "step `first` may write it"),
        ("last.wandb", "step `last` may write it"),
        ("x" * 201, "at most 200 characters"),
    ],
)
def test_a_name_that_a_run_needs_itself_is_refused(tmp_path: Path, name: str, why: str) -> None:
    text = f"""\
        steps:
          - {{kind: distill, name: first}}
          - {{kind: quantize, name: {name}}}
          - {{kind: distill, name: last}}
        """
    message = refused(tmp_path, text)
    assert "recipe.yaml:3: " in message and why in message
