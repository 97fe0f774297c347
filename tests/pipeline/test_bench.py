"""`bench` keeps answers while it works: the same command does not ask for them again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from edgewright.benchmarks.options import EvaluateOptions
from edgewright.benchmarks.tasks.accuracy import Answer
from edgewright.benchmarks.tasks.backends import TorchBackend
from edgewright.benchmarks.tasks.kept_answers import KeptAnswers
from edgewright.pipeline.bench import bench_path
from edgewright.pipeline.recipe_file import load_recipe
from edgewright.pipeline.run import run_recipe

OPTIONS = EvaluateOptions(tasks=("reasoning",), limit=8, max_new_tokens=6, latency=None)


class Stopped(Exception):
    """Stands for a kill in the middle of the work."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many prompts each call of the model got."""
    counts: list[int] = []
    generate = TorchBackend.generate

    def counted(self: TorchBackend, prompts: Sequence[Any], *rest: Any) -> list[list[int]]:
        counts.append(len(prompts))
        return generate(self, prompts, *rest)

    monkeypatch.setattr(TorchBackend, "generate", counted)
    return counts


def stop_after(answers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop the next measurement when so many answers are kept."""
    put = KeptAnswers.put

    def counted(self: KeptAnswers, key: str, tokens: Sequence[int]) -> None:
        put(self, key, tokens)
        if len(self.file.read_bytes().splitlines()) == answers:
            raise Stopped

    monkeypatch.setattr(KeptAnswers, "put", counted)


def measured(file: Path) -> tuple[Any, str]:
    """What a measurement found, and the answers beside it."""
    found = json.loads(file.read_text())
    answers = file.with_suffix(".answers.jsonl").read_text()
    return {key: found[key] for key in ("metrics", "context", "samples")}, answers


def bench(model: Path, save: Path, options: EvaluateOptions = OPTIONS) -> None:
    bench_path(model, options, "cpu", None, save)


def test_an_interrupted_measurement_asks_only_for_what_is_missing(
    make_model, tmp_path, asked, monkeypatch, capsys
) -> None:
    model = make_model("llama")
    bench(model, tmp_path / "whole.json")
    with monkeypatch.context() as patch:
        stop_after(3, patch)
        with pytest.raises(Stopped):
            bench(model, tmp_path / "new.json")
    assert not (tmp_path / "new.json").exists()
    bench(model, tmp_path / "new.json")
    assert asked == [8, 8, 5]
    assert "resumed: 3 of 8 answers" in capsys.readouterr().err
    assert measured(tmp_path / "new.json") == measured(tmp_path / "whole.json")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".new")]


@pytest.mark.parametrize("saved", [True, False])
def test_an_interruption_says_whether_answers_are_kept(
    make_model, cli, tmp_path, monkeypatch, saved
) -> None:
    def stopped(*_: object) -> list[Answer]:
        raise KeyboardInterrupt

    monkeypatch.setattr("edgewright.benchmarks.tasks.task._is_right", stopped)
    more = ("--save", tmp_path / "new.json") if saved else ()
    code, _, error = cli("bench", make_model("llama"), "--tasks", OPTIONS.tasks[0], *more)
    assert code == 130
    assert ("kept, run the same command again to resume" in error) == saved
    assert ("starts afresh" in error) != saved


def test_answers_outlive_a_failure_to_judge_them(make_model, tmp_path, asked, monkeypatch) -> None:
    model = make_model("llama")

    def fails(*_: object) -> list[Answer]:
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr("edgewright.benchmarks.tasks.task._is_right", fails)
        with pytest.raises(Stopped):
            bench(model, tmp_path / "new.json")
    bench(model, tmp_path / "new.json")
    assert asked == [8, 0]


@pytest.mark.parametrize("changed", [{"max_new_tokens": 5}, {"dtype": "bfloat16"}])
def test_answers_of_another_measurement_are_not_taken(
    make_model, tmp_path, asked, monkeypatch, capsys, changed
) -> None:
    model = make_model("llama")
    with monkeypatch.context() as patch:
        stop_after(3, patch)
        with pytest.raises(Stopped):
            bench(model, tmp_path / "new.json")
    bench(model, tmp_path / "new.json", OPTIONS.model_copy(update=changed))
    assert asked == [8, 8]
    assert f"started afresh: evaluate.{next(iter(changed))}" in capsys.readouterr().err


def test_answers_of_another_model_are_not_taken(make_model, tmp_path, asked, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        stop_after(3, patch)
        with pytest.raises(Stopped):
            bench(make_model("llama"), tmp_path / "new.json")
    bench(make_model("qwen2"), tmp_path / "new.json")
    assert asked == [8, 8]


def test_a_damaged_answer_is_asked_for_again(make_model, tmp_path, asked, monkeypatch) -> None:
    model = make_model("llama")
    bench(model, tmp_path / "whole.json")
    with monkeypatch.context() as patch:
        stop_after(4, patch)
        with pytest.raises(Stopped):
            bench(model, tmp_path / "new.json")
    kept = tmp_path / ".new.json.answers" / "answers.jsonl"
    lines = kept.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b'"tokens": [', b'"tokens": [1')
    kept.write_bytes(b"".join(lines))
    bench(model, tmp_path / "new.json")
    assert asked == [8, 8, 6]
    assert measured(tmp_path / "new.json") == measured(tmp_path / "whole.json")


def test_a_run_resumes_in_the_middle_of_a_measurement(
    make_model, tmp_path, asked, monkeypatch
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"""
name: small
model: {make_model("llama")}
memory_check: false
evaluate: {{tasks: [reasoning], limit: 8, max_new_tokens: 6, perplexity: [], latency: null}}
steps:
  - {{kind: quantize, method: rtn, group_size: 32}}
"""
    )
    with monkeypatch.context() as patch:
        stop_after(3, patch)
        with pytest.raises(Stopped):
            run_recipe(load_recipe(recipe), tmp_path / "run")
    run_recipe(load_recipe(recipe), tmp_path / "run")
    assert asked == [8, 5, 8]
    assert not list((tmp_path / "run" / "samples").glob(".*"))
