"""Models, data and tasks that a recipe names are checked before any work: exit code 2."""

from __future__ import annotations

from pathlib import Path

import pytest

RECIPE = """\
model: {model}
evaluate: {{tasks: [reasoning], perplexity: ["builtin:reasoning"]}}
steps:
  - {{kind: distill, teacher: baseline, student: {{from: baseline, ffn: 0.5}}}}
  - {{kind: iterate, prune: {{ffn: 0.5}}, recover: {{data: "builtin:reasoning"}}}}
"""
WRONG = {
    "calibration.source": "text:nope.txt",
    "evaluate.perplexity": "[builtin:reasoning, jsonl:nope.jsonl]",
    "evaluate.tasks": "[reasoning, qa:nope.jsonl]",
    "traces.prompts": "jsonl:nope.jsonl",
    "steps.distill.data": "builtin:nope",
    "steps.distill.teacher": "nope",
    "steps.iterate.recover.data": "nope:nope.txt",
    "steps.iterate.held_out": "text:nope.txt",
}


@pytest.fixture
def recipe(make_model, tmp_path: Path) -> Path:
    file = tmp_path / "recipe.yaml"
    file.write_text(RECIPE.format(model=make_model("llama")))
    return file


def test_a_recipe_whose_data_is_there_is_planned(cli, recipe: Path) -> None:
    assert cli("plan", recipe)[0] == 0


@pytest.mark.parametrize("key", WRONG)
@pytest.mark.parametrize("verb", ["plan", "run", "run --dry-run", "sweep"])
def test_what_is_not_there_is_found_before_any_work(
    cli, recipe: Path, tmp_path: Path, verb: str, key: str
) -> None:
    if verb == "sweep":
        pytest.importorskip("optuna")
    out = tmp_path / "out"
    more = [] if verb == "plan" else ["--out", out]
    more += ["--vary", "steps.iterate.prune.ffn=0.25,0.5"] if verb == "sweep" else []
    name, *flags = verb.split()
    code, printed, error = cli(name, recipe, *flags, "--set", f"{key}={WRONG[key]}", *more)
    assert code == 2, error
    assert "nope" in error
    assert "->" in error
    assert not printed
    assert not (out / "ledger.json").exists()


def test_all_that_is_missing_is_named_at_once_with_its_place(cli, recipe: Path) -> None:
    settings = [word for key in WRONG for word in ("--set", f"{key}={WRONG[key]}")]
    code, _, error = cli("plan", recipe, *settings)
    assert code == 2
    for place in ("calibration.source", "traces.prompts", "evaluate.perplexity", "evaluate.tasks"):
        assert f"  {place}: " in error
    assert "  step distill: builtin:nope: no such built-in data" in error
    assert error.count("  step iterate: ") == 2
    assert "  step distill: nope: no such model directory" in error
