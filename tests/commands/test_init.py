"""`edgewright init`: the questions, and recipes that run as they are."""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from edgewright.pipeline.goals import GOALS, MADE_BY, GoalName
from edgewright.pipeline.recipe_draft import Draft
from edgewright.targets.profile import target_names

BUILTIN = "builtin:tiny-reasoner"
NANO = "jetson-orin-nano-8gb"
ALL = ("--model", BUILTIN, "--target", NANO)


class Terminal(io.StringIO):
    """Standard input on which somebody types."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def type_in(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal("".join(f"{line}\n" for line in lines)))


@pytest.mark.parametrize("goal", get_args(GoalName))
def test_a_recipe_for_every_goal_runs_dry_as_it_is(cli: Any, goal: GoalName) -> None:
    code, out, error = cli("init", *ALL, "--goal", goal, "--json")
    assert code == 0, error
    text = Path("recipe.yaml").read_text()
    assert text.startswith(MADE_BY) and max(map(len, text.splitlines())) <= 100
    code, planned, error = cli("run", "recipe.yaml", "--dry-run", "--json")
    assert code == 0, error
    steps = [row["step"] for row in json.loads(planned)["rows"]]
    assert steps == [row["step"] for row in json.loads(out)["rows"]]
    recipe = yaml.safe_load(text)
    # What TensorRT cannot read on every JetPack is made in another format, after the run.
    last = "quantize" if GOALS[goal].precision == "int4" else "export"
    assert steps[0] == "baseline" and steps[-1] == recipe["gate"]["candidate"] == last
    assert ("format gguf" in text) == (last == "quantize")
    assert ("distill" in steps) == GOALS[goal].trains


def test_goals_are_those_of_the_option() -> None:
    assert tuple(GOALS) == get_args(GoalName)


def test_the_plan_and_the_next_command_are_shown(cli: Any) -> None:
    code, out, error = cli("init", *ALL, "--goal", "small", "--out", "my recipe.yaml")
    assert code == 0
    assert f"plan for {NANO}" in out and "quantize" in out
    assert "wrote my recipe.yaml" in error
    assert "next: edgewright run 'my recipe.yaml'" in error


@pytest.mark.parametrize("missing", ["model", "target", "goal"])
def test_without_a_terminal_missing_flags_are_named(
    cli: Any, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    flags = {"model": BUILTIN, "target": NANO, "goal": "small"}
    del flags[missing]
    words = [word for name, value in flags.items() for word in (f"--{name}", value)]
    code, _, error = cli("init", *words)
    assert code == 2
    assert f"error: --{missing} missing" in error and f"add --{missing} " in error
    assert not Path("recipe.yaml").exists()


def test_a_goal_that_trains_needs_text(
    cli: Any, make_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    answers = ("--model", make_model("qwen3"), "--target", NANO)
    code, _, error = cli("init", *answers, "--goal", "fast")
    assert code == 2 and "--data" in error and not Path("recipe.yaml").exists()
    Path("mine.txt").write_text("A sentence about boats.\n" * 400)
    code, _, error = cli("init", *answers, "--goal", "fast", "--data", "text:mine.txt")
    assert code == 0, error
    recipe = yaml.safe_load(Path("recipe.yaml").read_text())
    assert recipe["steps"][1]["data"] == recipe["calibration"]["source"] == "text:mine.txt"
    assert "perplexity/mine" in recipe["gate"]["limits"]
    code, _, error = cli("run", "recipe.yaml", "--dry-run")
    assert code == 0, error


def test_a_model_without_text_is_measured_on_built_in_prompts(
    cli: Any, make_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    answers = ("--model", make_model("qwen3"), "--target", NANO, "--goal", "small")
    assert cli("init", *answers)[0] == 0
    recipe = yaml.safe_load(Path("recipe.yaml").read_text())
    assert recipe["calibration"]["source"] == "auto"
    assert recipe["evaluate"]["perplexity"] == ["builtin:prompts"]


def test_questions_are_asked_on_a_terminal(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    type_in(monkeypatch, "no/such/model/anywhere", "", "jetson-nano-9", NANO, "tiny", "accurate")
    code, _, error = cli("init")
    assert code == 0, error
    recipe = yaml.safe_load(Path("recipe.yaml").read_text())
    assert (recipe["model"], recipe["target"]) == (BUILTIN, NANO)
    assert recipe["steps"][0]["method"] == "smoothquant"
    assert "no such model directory" in error  # and it asked again
    assert "`tiny` is no goal" in error
    for choice in (*target_names(), *GOALS):
        assert choice in error


def test_what_is_given_is_not_asked(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    type_in(monkeypatch, "small")
    code, _, error = cli("init", *ALL)
    assert code == 0, error
    assert "Goal" in error and "Model" not in error and "Device" not in error


def test_an_end_of_input_is_no_answer(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    type_in(monkeypatch)
    code, _, error = cli("init", *ALL)
    assert code == 2 and "were not answered" in error
    assert "--model MODEL --target NAME --goal small|" in error
    assert not Path("recipe.yaml").exists()


def test_a_file_is_never_replaced_unasked(cli: Any) -> None:
    Path("recipe.yaml").write_text("mine: true\n")
    for more in ((), ("--overwrite",)):
        code, _, error = cli("init", *ALL, "--goal", "small", *more)
        assert code == 2 and "was not written by edgewright" in error
    assert Path("recipe.yaml").read_text() == "mine: true\n"
    assert cli("init", *ALL, "--goal", "small", "--out", "new.yaml")[0] == 0
    changed = Path("new.yaml").read_text() + "# my own change\n"
    Path("new.yaml").write_text(changed)
    code, _, error = cli("init", *ALL, "--goal", "small", "--out", "new.yaml")
    assert code == 2 and "--overwrite" in error
    assert Path("new.yaml").read_text() == changed
    assert cli("init", *ALL, "--goal", "fast", "--out", "new.yaml", "--overwrite")[0] == 0
    assert "distill" in Path("new.yaml").read_text()


@pytest.mark.parametrize(
    "model", ["Qwen/Qwen2.5-0.5B@main", "/models/My Model: v2", "./x#y", "org/a[b]", "1e3", "2024"]
)
def test_any_name_of_a_model_survives_yaml(model: str) -> None:
    Path("a b[0:9].txt").write_text("text")
    draft = Draft(model, NANO, "small", "text:a b[0:9].txt")
    read = yaml.safe_load(draft.text("recipe.yaml"))
    assert read["model"] == model
    assert read["evaluate"]["perplexity"] == ["text:a b[0:9].txt"]
    assert draft.recipe.model == model


def test_no_recipe_is_written_for_a_goal_that_the_device_refuses(
    cli: Any, make_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    model = Path("large")
    model.mkdir()
    file = model / "config.json"
    shutil.copy(make_model("llama") / "config.json", file)
    large = {"num_hidden_layers": 200, "hidden_size": 2048, "intermediate_size": 8192}
    file.write_text(json.dumps(json.loads(file.read_text()) | large))
    code, out, error = cli(
        "init", "--model", model, "--target", "jetson-orin-nano-4gb", "--goal", "accurate"
    )
    assert code == 3, error
    assert "no recipe was written: take another --goal" in error and "plan for" in out
    assert not Path("recipe.yaml").exists()
