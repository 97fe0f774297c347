"""Data that nobody named: own answers for other models, the task for the built-in one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgewright.checkpoints.config import is_builtin
from edgewright.checkpoints.hashing import content_hash, read_provenance
from edgewright.compress.quantize.options import QuantizeOptions
from edgewright.errors import UsageError
from edgewright.generation import generate as generation
from edgewright.pipeline.defaults import calibration_for, with_default_data, with_training_data
from edgewright.pipeline.plan import plan_recipe
from edgewright.pipeline.recipe import Recipe
from edgewright.pipeline.registry import STEPS
from edgewright.pipeline.run import run_recipe
from edgewright.pipeline.verb import run_verb
from edgewright.steps import own_text
from edgewright.steps.context import CalibrationData, StepContext
from edgewright.steps.own_text import OwnText, Sampling

MakeModel = Callable[..., Path]
Cli = Callable[..., tuple[int, str, str]]
AUTO = CalibrationData("auto", samples=2, seq_len=64)
GPTQ = QuantizeOptions(group_size=32)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache directory, and short answers."""
    folder = tmp_path_factory.mktemp("own")
    monkeypatch.setenv("EDGEWRIGHT_CACHE", str(folder))
    monkeypatch.setattr(Sampling, "of", lambda model: Sampling(max_new_tokens=24))
    return folder


@pytest.fixture
def foreign(make_model: MakeModel, tmp_path: Path) -> Path:
    """A model with another vocabulary than the built-in model: two of its tokens are exchanged."""
    folder = Path(shutil.copytree(make_model("llama"), tmp_path / "foreign"))
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    vocab = tokenizer["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    file.write_text(json.dumps(tokenizer))
    return folder


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may be generated."""

    def fail(*args: object) -> None:
        raise AssertionError("text was generated")

    monkeypatch.setattr(generation, "generate", fail)


def recipe_of(model: Path, text_file: Path, *steps: dict[str, Any], **more: Any) -> Recipe:
    settings: dict[str, Any] = {
        "model": str(model),
        "calibration": {"samples": 2, "seq_len": 64},
        "evaluate": {"perplexity": [f"text:{text_file}"], "windows": 2, "latency": None},
        "steps": list(steps),
    }
    return Recipe.model_validate(settings | more)


def test_the_built_in_model_is_known_by_its_vocabulary(
    make_model: MakeModel, foreign: Path, tmp_path: Path
) -> None:
    demo = Path(own_text.__file__).parents[1] / "demo" / "model"
    assert is_builtin(demo)
    assert is_builtin(make_model("qwen3"))  # tests use its tokenizer
    assert not is_builtin(foreign)
    assert not is_builtin(tmp_path)
    run_verb("quantize", GPTQ, str(demo), tmp_path / "int4", StepContext(AUTO))
    assert is_builtin(tmp_path / "int4")
    assert read_provenance(tmp_path / "int4")["calibration"]["source"] == "builtin:reasoning"


def test_gptq_calibrates_on_own_answers(foreign: Path, tmp_path: Path) -> None:
    def run(**changes: Any) -> dict[str, Any]:
        context = StepContext(AUTO, **changes)
        return run_verb("quantize", GPTQ, str(foreign), tmp_path / "out", context)

    made = run()
    text = "calibration: 2 x 64 tokens of the model's own answers"
    assert any(note.startswith(text) for note in made["notes"])
    used = read_provenance(tmp_path / "out")["calibration"]
    assert used["source"] == "builtin:own"
    assert used["written_by"] == content_hash(foreign)
    assert len(used["rows_hash"]) == 16
    assert run()["reused"]
    assert not run(seed=1)["reused"]
    assert read_provenance(tmp_path / "out")["calibration"]["rows_hash"] != used["rows_hash"]


@pytest.mark.usefixtures("silent")
def test_rounding_generates_nothing(foreign: Path, tmp_path: Path) -> None:
    options = QuantizeOptions(method="rtn", group_size=32)
    for source in ("auto", "builtin:own"):
        context = StepContext(CalibrationData(source, samples=2, seq_len=64))
        made = run_verb("quantize", options, str(foreign), tmp_path / source, context)
        assert "measured on 2 rows of 64 tokens of the built-in prompts" in made["notes"]
        used = read_provenance(tmp_path / source)["calibration"]
        assert used["source"] == "builtin:prompts"


@pytest.mark.parametrize(
    ("kind", "options", "needed"),
    [
        ("quantize", {}, True),
        ("quantize", {"method": "awq"}, True),
        ("quantize", {"method": "int8"}, True),
        ("quantize", {"method": "int8", "scaling": "none"}, False),
        ("quantize", {"method": "rtn"}, False),
        ("quantize", {"method": "rtn", "scaling": "awq"}, True),
        ("quantize", {"method": "rtn", "sensitivity": {"budget": 0.05}}, True),
        ("prune", {"heads": 0.5}, True),
        ("prune", {"heads": 0.5, "criterion": "magnitude"}, True),
        ("prune", {"heads": 0.5, "criterion": "magnitude", "compensate": False}, False),
        ("prune", {"layers": 1, "criterion": "random", "compensate": False}, True),
        ("prune", {"merge_kv": 1}, True),
        ("prune", {"merge_kv": 1, "merge": "mean"}, False),
        ("prune", {"sparsity": "2:4"}, True),
        ("prune", {"sparsity": "2:4", "sparsity_method": "magnitude"}, False),
        ("distill", {}, False),
        ("distill", {"student": {"from": "x", "ffn": 0.5}}, True),
        ("iterate", {"prune": {"ffn": 0.5}}, True),
        ("export", {"precision": "int8-dynamic"}, False),
    ],
)
def test_which_steps_need_calibration_text(
    kind: str, options: dict[str, Any], needed: bool, foreign: Path
) -> None:
    step = STEPS[kind]
    settled = step.Options.model_validate(options)
    own = OwnText(foreign, "cpu", 0)
    assert step.calibrates(settled) == needed
    found = calibration_for(step, settled, AUTO, own)
    assert found.source == ("builtin:own" if needed else "builtin:prompts")
    assert found.own is (own if needed else None)
    named = CalibrationData("text:mine.txt")
    assert calibration_for(step, settled, named, own) == named


@pytest.mark.usefixtures("silent")
def test_a_plan_says_what_it_will_be_and_generates_nothing(
    foreign: Path, text_file: Path, tmp_path: Path, cli: Cli
) -> None:
    steps = [{"kind": "quantize", "group_size": 32}, {"kind": "export"}]
    recipe = recipe_of(foreign, text_file, *steps)
    rows = {row["step"]: row for row in plan_recipe(recipe)}
    assert rows["quantize"]["calibration"].startswith(
        "at most 2 x 64 tokens of builtin:own, the model's"
    )
    assert rows["export"]["calibration"] == ""
    file = tmp_path / "recipe.yaml"
    file.write_text(json.dumps(recipe.model_dump(mode="json", by_alias=True)))
    code, out, _ = cli("run", file, "--dry-run")
    assert code == 0
    assert "quantize: calibrates on at most 2 x 64 tokens of builtin:own" in " ".join(out.split())


@pytest.mark.usefixtures("silent")
def test_a_preview_of_pruning_generates_nothing(foreign: Path, cli: Cli) -> None:
    code, out, _ = cli(
        *("prune", foreign, "--ffn", 0.5, "--criterion", "activation", "--dry-run", "--json"),
        *("--samples", 2, "--seq-len", 64),
    )
    assert code == 0
    notes = json.loads(out)["notes"]
    assert "measured on 2 rows of 64 tokens of the built-in prompts" in notes
    assert any("the step itself will calibrate on builtin:own" in note for note in notes)


def test_the_model_of_a_recipe_writes_for_all_steps(
    foreign: Path, text_file: Path, tmp_path: Path, cache: Path
) -> None:
    recipe = recipe_of(
        foreign,
        text_file,
        {"kind": "prune", "ffn": 0.5, "criterion": "activation"},
        {"kind": "quantize", "group_size": 32},
    )
    ledger = run_recipe(recipe, tmp_path / "run")
    assert ledger["recipe"]["calibration"]["source"] == "builtin:own"
    assert len(list(cache.rglob("*.jsonl"))) == 1
    for name in ("prune", "quantize"):
        used = read_provenance(tmp_path / "run" / name)["calibration"]
        assert (used["source"], used["written_by"]) == ("builtin:own", content_hash(foreign))


def test_training_without_data_is_refused_for_other_models(
    make_model: MakeModel, foreign: Path, text_file: Path, tmp_path: Path, cli: Cli
) -> None:
    distill = STEPS["distill"]
    options = distill.Options()
    settled = with_training_data(distill, options, make_model("llama"), "x")
    assert distill.inputs(settled).data == {"builtin:reasoning"}
    with pytest.raises(UsageError, match="x: there is no text to train on") as caught:
        with_training_data(distill, options, foreign, "x")
    assert "--data SOURCE" in caught.value.hint
    for steps in ({"kind": "distill"}, {"kind": "iterate", "prune": {"ffn": 0.5}}):
        with pytest.raises(UsageError, match=rf"step `{steps['kind']}`: there is no text"):
            plan_recipe(recipe_of(foreign, text_file, steps))
    code, _, err = cli("distill", foreign, "--teacher", "none", "--out", tmp_path / "out")
    assert code == 2
    assert "there is no text to train on" in " ".join(err.split())


def test_stages_with_data_of_their_own_need_no_other(foreign: Path, text_file: Path) -> None:
    stage = {"loss": "logits", "steps": 1, "data": f"text:{text_file}"}
    options = STEPS["distill"].Options.model_validate({"stages": [stage]})
    assert with_training_data(STEPS["distill"], options, foreign, "x") == options


def test_a_recipe_without_evaluate_never_measures_another_model_on_the_toy_task(
    make_model: MakeModel, foreign: Path
) -> None:
    steps = [{"kind": "quantize"}]
    for model, tasks, text, calibration in (
        (make_model("llama"), ("reasoning",), ("builtin:reasoning",), "builtin:reasoning"),
        (foreign, (), ("builtin:prompts",), "builtin:own"),
    ):
        recipe = Recipe.model_validate({"model": str(model), "steps": steps})
        settled = with_default_data(recipe, model)
        assert (settled.evaluate.tasks, settled.evaluate.perplexity) == (tasks, text)
        assert settled.calibration.source == calibration
    asked = {"evaluate": {"tasks": ["reasoning"]}, "steps": steps}
    recipe = Recipe.model_validate(asked)
    assert with_default_data(recipe, foreign).evaluate == recipe.evaluate
