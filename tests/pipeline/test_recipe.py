"""Recipes: the shipped ones are valid, and a wrong one gets all its errors, line by line."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import yaml

from edgewright.checkpoints.config import model_path
from edgewright.compress.distill.options import StudentFrom
from edgewright.errors import Refused, UsageError
from edgewright.pipeline.plan import plan_recipe
from edgewright.pipeline.recipe import BASELINE, Recipe
from edgewright.pipeline.recipe_file import ROOT, builtin_recipe, load_recipe

SHIPPED = sorted((ROOT / "recipes").glob("*.yaml"))
GOOD = """\
    name: small
    model: some/model
    steps:
      - kind: prune
        heads: 0.25
      - kind: quantize
        name: four
        bits: 4
      - kind: quantize
        name: eight
        from: prune
        bits: 8
    gate:
      candidate: four
      limits:
        accuracy/reasoning: {min_ratio: 0.9}
    """


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "recipe.yaml"
    file.write_text(dedent(text))
    return file


def refused(tmp_path: Path, text: str, *overrides: str) -> UsageError:
    with pytest.raises(UsageError) as caught:
        load_recipe(write(tmp_path, text), overrides)
    assert caught.value.hint
    assert caught.value.exit_code == 2
    return caught.value


@pytest.mark.parametrize("file", SHIPPED, ids=lambda f: f.stem)
def test_shipped_recipes_hold(file: Path) -> None:
    recipe = load_recipe(file)
    assert recipe.name
    assert recipe.steps
    assert Recipe.model_validate(recipe.model_dump(mode="json", by_alias=True)) == recipe
    assert recipe == load_recipe(builtin_recipe(file.stem))


@pytest.mark.parametrize(
    ("name", "teacher", "student", "parameters"),
    [
        (
            "deepseek-r1-distill-qwen-7b-to-3b-orin-nano",
            "deepseek-r1-distill-qwen-7b",
            "qwen2.5-3b",
            3_085_938_688,
        ),
        ("llama-3-8b-to-3b", "llama-3.1-8b", "llama-3.2-3b", 3_212_749_824),
    ],
)
def test_large_recipes_fit_their_target(
    name: str,
    teacher: str,
    student: str,
    parameters: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From published configs alone: the last step runs on the board, and no step is refused."""
    monkeypatch.chdir(tmp_path)
    for data in ("train.txt", "valid.txt", "train.jsonl", "test.jsonl"):  # what the recipes name
        Path(data).write_text('{"text": "of the user"}\n')
    for model in (teacher, student):
        (tmp_path / model).mkdir()
        shutil.copy(
            Path(__file__).parents[1] / "configs" / f"{model}.json",
            tmp_path / model / "config.json",
        )
    recipe = load_recipe(
        builtin_recipe(name),
        [f"model={tmp_path / teacher}", f"steps.distill.student={tmp_path / student}"],
    )
    rows = {row["step"]: row for row in plan_recipe(recipe)}
    assert not [reason for row in rows.values() for reason in row["refused"]]
    assert rows["distill"]["parameters"] == parameters
    assert rows["export-int4"]["fits"] and not rows["baseline"]["fits"]
    assert rows["distill"]["ram_bytes"] > 16 * parameters
    exchanged = load_recipe(
        builtin_recipe(name),
        [f"model={tmp_path / student}", f"steps.distill.student={tmp_path / teacher}"],
    )
    with pytest.raises(Refused, match="larger than the teacher"):
        plan_recipe(exchanged)


def test_traces_can_be_named_as_data(tmp_path: Path) -> None:
    text = """\
        calibration: {source: traces}
        traces: {prompts: "builtin:reasoning", chains: 4}
        evaluate: {perplexity: [traces, "text:a.txt"]}
        steps:
          - kind: distill
            stages: [{loss: logits, steps: 1}, {loss: labels, steps: 1, data: traces}]
          - {kind: iterate, prune: {ffn: 0.5}, recover: {data: traces}}
        """
    recipe = load_recipe(write(tmp_path, text))
    found = recipe.with_traces("jsonl:t.jsonl")
    first, second = found.steps
    assert (first.data, [stage.data for stage in first.stages]) == (
        "auto",
        [None, "jsonl:t.jsonl"],
    )
    assert second.recover.data == found.calibration.source == "jsonl:t.jsonl"
    assert found.evaluate.perplexity == ("jsonl:t.jsonl", "text:a.txt")
    assert recipe.steps[1].recover.data == "traces"
    refused(tmp_path, text.replace("traces: {prompts", "notraces: {prompts"))
    for line in ("calibration: {source: traces}", "evaluate: {perplexity: [traces]}"):
        assert "nothing makes them" in str(
            refused(tmp_path, f"{line}\nsteps: [{{kind: prune, heads: 0.5}}]\n")
        )


@pytest.mark.parametrize(("name", "kind"), [("fsdp2", "FSDP"), ("zero3", "DEEPSPEED")])
def test_accelerate_reads_the_launch_configurations(name: str, kind: str) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(ROOT / "recipes" / "launch" / f"{name}.yaml"))
    assert (config.distributed_type, config.num_processes) == (kind, 4)
    assert config.fsdp_config.get("fsdp_version") == (2 if kind == "FSDP" else None)
    assert config.deepspeed_config.get("zero_stage") == (3 if kind == "DEEPSPEED" else None)


def test_demo() -> None:
    recipe = load_recipe(builtin_recipe("demo"))
    assert recipe.step_names == ["prune", "distill", "quantize", "export-int4", "export-int8"]
    assert [recipe.source_of(i) for i in range(5)] == [
        BASELINE,
        "prune",
        "distill",
        "quantize",
        "distill",
    ]
    student = recipe.steps[1].student
    assert isinstance(student, StudentFrom)
    assert (student.source, student.ffn) == ("prune", 0.75)
    assert recipe.gate is not None
    assert recipe.gate.limits["size_bytes"].max_ratio == 0.34
    assert recipe.evaluate.latency is not None
    assert Path(model_path(recipe.model)) == ROOT / "demo" / "model"
    assert model_path("some/model") == "some/model"


def test_defaults(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, "steps:\n  - {kind: prune, heads: 0.5}\n"))
    assert (recipe.seed, recipe.device, recipe.target, recipe.gate) == (0, "auto", None, None)
    assert recipe.calibration.source == "auto"


MISTAKES = """\
    name: wrong
    modle: some/model
    steps:
      - kind: prune
        heads: 1.5
      - kind: squeeze
      - kind: quantize
        bits: 5
        grup_size: 64
    """


def test_five_mistakes_are_reported_together(tmp_path: Path) -> None:
    found = str(refused(tmp_path, MISTAKES)).splitlines()
    file = str(tmp_path / "recipe.yaml")
    assert found[0] == f"{file}: 5 errors in the recipe"
    expected = {
        2: "`modle` is not an option",
        5: "heads`: .*less than 1",
        6: "squeeze",
        8: "bits`: .*4 or 8",
        9: "`.*grup_size` is not",
    }
    assert len(found) == 6
    for line, what in expected.items():
        assert any(re.search(f"^  {re.escape(file)}:{line}: .*{what}", entry) for entry in found), (
            line,
            what,
        )


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("steps:\n  - {kind: prune}\n  - {kind: prune}\n", 3, "two steps are called `prune`"),
        ("steps:\n  - {kind: prune, name: baseline}\n", 2, "two steps are called `baseline`"),
        (
            "steps:\n  - {kind: prune, from: next}\n  - {kind: quantize, name: next}\n",
            2,
            "reads `next`, which is no step before",
        ),
        (
            "steps:\n  - {kind: prune, from: prune}\n",
            2,
            "reads `prune`, which is no step before it",
        ),
        ("steps:\n  - {kind: prune}\ngate: {candidate: four}\n", 3, "the gate names `four`"),
        (
            "steps:\n  - {kind: prune}\ngate: {candidate: prune, baseline: four}\n",
            3,
            "the gate names `four`",
        ),
        ("model: x\nsteps: []\n", 2, "at least 1 item"),
        ("model: x\n", 1, "`steps`: is missing"),
        ("steps:\n  - heads: 0.5\n", 2, "kind"),
        ("steps:\n  - {kind: prune, name: Up/down}\n", 2, "name"),
        (
            "steps:\n  - {kind: prune}\ngate:\n  limits:\n    a: {}\n  candidate: prune\n",
            5,
            "give min_ratio",
        ),
        (
            "steps:\n  - {kind: prune}\ngate:\n  candidate: prune\n  confidence: 2\n",
            5,
            "`gate.confidence`: Input should be less than 1",
        ),
        (
            "steps:\n  - kind: distill\n    stages:\n"
            "      - {loss: hidden, steps: 5}\n      - {steps: 0}\n",
            5,
            "greater than 0",
        ),
        ("steps:\n  - kind: distill\n    student:\n      from: prune\n      fnn: 0.5\n", 5, "fnn"),
        ("evaluate:\n  latency:\n    runs: 0\nsteps:\n  - {kind: prune}\n", 3, "greater than 0"),
    ],
)
def test_one_mistake(text: str, line: int, what: str, tmp_path: Path) -> None:
    message = str(refused(tmp_path, text))
    assert what in message
    assert re.search(rf"recipe\.yaml:{line}: ", message), message


@pytest.mark.parametrize(
    "text", ["", "just words\n", "- a\n- b\n", "steps: [\n", "a: b: c\n", "null\n"]
)
def test_files_that_are_no_recipe(text: str, tmp_path: Path) -> None:
    assert str(tmp_path / "recipe.yaml") in str(refused(tmp_path, text))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such recipe"):
        load_recipe(tmp_path / "nothing.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"name: \xff\xfe\n")
    with pytest.raises(UsageError, match=r"binary\.yaml"):
        load_recipe(tmp_path / "binary.yaml")


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("model=other/model", ("model",), "other/model"),
        ("seed=7", ("seed",), 7),
        ("steps.prune.heads=0.5", ("steps", 0, "heads"), 0.5),
        ("steps.0.heads=0.5", ("steps", 0, "heads"), 0.5),
        ("steps.eight.group_size=64", ("steps", 2, "group_size"), 64),
        ("steps.1.sym=false", ("steps", 1, "sym"), False),
        ("evaluate.limit=50", ("evaluate", "limit"), 50),
        ("evaluate.latency=null", ("evaluate", "latency"), None),
        ("evaluate.latency.runs=3", ("evaluate", "latency", "runs"), 3),
        ("evaluate.tasks=[]", ("evaluate", "tasks"), ()),
        ("calibration.source=text:a=b.txt", ("calibration", "source"), "text:a=b.txt"),
        (
            "gate.limits.accuracy/reasoning.min_ratio=0.5",
            ("gate", "limits", "accuracy/reasoning", "min_ratio"),
            0.5,
        ),
        (
            "gate.limits.perplexity/a.b.max_ratio=2",
            ("gate", "limits", "perplexity/a.b", "max_ratio"),
            2.0,
        ),
        (
            "gate.limits.accuracy/reasoning.max_drop=0.01",
            ("gate", "limits", "accuracy/reasoning", "max_drop"),
            0.01,
        ),
        ("gate.inconclusive=fail", ("gate", "inconclusive"), "fail"),
        ("gate=null", ("gate",), None),
    ],
)
def test_overrides(override: str, path: tuple[Any, ...], value: Any, tmp_path: Path) -> None:
    file = write(tmp_path, GOOD)
    before = load_recipe(file)
    recipe = load_recipe(file, [override])
    found: Any = recipe
    for part in path:
        found = (
            found[part]
            if isinstance(part, int) or isinstance(found, dict)
            else getattr(found, part)
        )
    assert found == value
    assert recipe != before
    assert yaml.safe_load(file.read_text()) == yaml.safe_load(dedent(GOOD))


def test_overrides_add_up_in_order(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, GOOD), ["seed=1", "seed=2", "steps.four.bits=8"])
    assert (recipe.seed, recipe.steps[1].bits) == (2, 8)


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("seed", "not KEY=VALUE"),
        ("=7", "not KEY=VALUE"),
        ("steps.nine.heads=1", "no step `nine`"),
        ("steps.9.heads=1", "no step `9`"),
        ("seed=many", "`seed`"),
        ("steps.prune.haeds=0.5", "haeds"),
        ("sede=7", "`sede` is not an option"),
        ("steps.prune.heads.share=0.5", "--set steps.prune.heads.share=0.5"),
        ("seed=[1", "--set seed=[1"),
        ("steps=none", "steps"),
        ("steps.prune=none", "steps"),
    ],
)
def test_bad_overrides(override: str, what: str, tmp_path: Path) -> None:
    assert what in str(refused(tmp_path, GOOD, override))
