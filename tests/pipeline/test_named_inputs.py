"""Models, data and tasks that a recipe names are checked before any work: exit code 2."""

from __future__ import annotations

import gzip
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


UNUSABLE = {
    "calibration.source": ("'jsonl:rows.jsonl[5:]'", "no rows are in this range; the data has 5"),
    "evaluate.perplexity": ("['jsonl:rows.jsonl[last]']", "`[last]` is no range of rows"),
    "evaluate.tasks": ("['qa:rows.jsonl[:2]', 'qa:rows.jsonl[2:]']", "both are called rows"),
    "steps.distill.data": ("jsonl:damaged.jsonl.gz", "not a gzip file, or damaged"),
    "steps.iterate.held_out": ("'text:rows.jsonl[1:]'", "text data has no rows to choose [1:]"),
}


@pytest.mark.parametrize("key", UNUSABLE)
def test_parts_of_data_are_checked_before_any_work(
    cli, recipe: Path, tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text('{"question": "q", "answer": "a"}\n' * 5)
    Path("damaged.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}\n' * 5)[:-9])
    setting, message = UNUSABLE[key]
    code, printed, error = cli("run", recipe, "--set", f"{key}={setting}", "--out", "out")
    assert code == 2, error
    assert message in error
    assert not printed
    assert not Path("out/ledger.json").exists()


def test_disjoint_parts_of_one_file_are_planned(
    cli, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text('{"question": "q", "answer": "a"}\n' * 5)
    settings = (
        "calibration.source='jsonl:rows.jsonl[:-2]'",
        "evaluate.tasks=['qa:rows.jsonl[-2:]']",
    )
    assert cli("plan", recipe, *(word for one in settings for word in ("--set", one)))[0] == 0


LIMITS = {
    "accuracy/gsm8k": ("['qa:rows.jsonl']", "`evaluate.tasks` measures rows and not `gsm8k`"),
    "accuracy/row": ("['qa:rows.jsonl']", "did you mean `rows`?"),
    "accuracy/rows": ("[]", "`evaluate.tasks` measures nothing and not `rows`"),
    "perplexity/wiki": ("[]", "`evaluate.perplexity` measures "),
    "lm_eval/arc/acc": ("['qa:rows.jsonl']", "`evaluate.tasks` has no task of lm-eval"),
    "ttft_ms/p50": ("['qa:rows.jsonl']", "`evaluate.latency` is null, so that no time"),
}


@pytest.mark.parametrize("metric", LIMITS)
def test_a_limit_on_what_is_not_measured_is_found_before_any_work(
    cli, recipe: Path, tmp_path: Path, metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text('{"question": "q", "answer": "a"}\n' * 5)
    tasks, message = LIMITS[metric]
    settings = (
        f"evaluate.tasks={tasks}",
        "evaluate.latency=null",
        f"gate={{candidate: distill, limits: {{{metric}: {{min_ratio: 0.5, max_ratio: 2}}}}}}",
    )
    code, printed, error = cli(
        "run", recipe, *(word for one in settings for word in ("--set", one)), "--dry-run"
    )
    assert code == 2, error
    assert f"gate.limits.{metric}" in error and message in " ".join(error.split())
    assert not printed


def test_a_limit_on_what_is_measured_is_accepted(
    cli, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text('{"question": "q", "answer": "a"}\n' * 5)
    limits = "accuracy/rows: {min_ratio: 0.5}, size_bytes: {max_ratio: 1}"
    settings = (
        "evaluate.tasks=['qa:rows.jsonl']",
        f"gate={{candidate: distill, limits: {{{limits}}}}}",
    )
    words = [word for one in settings for word in ("--set", one)]
    code, _, error = cli("plan", recipe, *words)
    assert code == 0, error
