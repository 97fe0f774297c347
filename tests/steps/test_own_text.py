"""Calibration text that a model writes: sampled by seed, kept, checked, reused and completed."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from edgewright.checkpoints.tokenizer import load_tokenizer
from edgewright.data.packing import IGNORE, Encoded
from edgewright.data.prompts import builtin_prompts
from edgewright.errors import Refused, UsageError
from edgewright.steps import own_text as module
from edgewright.steps.cache_directory import cache_directory
from edgewright.steps.own_text import Answer, OwnText, Sampling, prompt_tokens

MakeModel = Callable[..., Path]
SEQ = 96


@pytest.fixture
def model(make_model: MakeModel) -> Path:
    return make_model("llama")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache directory, and answers of at most 40 tokens, in waves of at most 3."""
    monkeypatch.setenv("EDGEWRIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(Sampling, "of", lambda model: Sampling(max_new_tokens=40))
    monkeypatch.setattr(module, "WAVE", 3)
    return tmp_path / "cache"


@pytest.fixture
def waves(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of answers of every wave that is generated."""
    counts: list[int] = []
    generate = OwnText._generate

    def counted(self: OwnText, engine: object, first: int, count: int) -> list[Answer]:
        counts.append(count)
        return generate(self, engine, first, count)

    monkeypatch.setattr(OwnText, "_generate", counted)
    return counts


def rows_of(model: Path, samples: int = 6, seed: int = 0) -> list[Encoded]:
    return OwnText(model, "cpu", seed).rows(load_tokenizer(model), samples, SEQ)


def test_a_seed_gives_the_same_rows_and_they_are_kept(
    model: Path, cache: Path, waves: list[int]
) -> None:
    first = rows_of(model)
    assert len(first) == 6
    assert all(len(row.ids) == SEQ for row in first)
    generated = len(waves)
    assert rows_of(model) == first
    assert len(waves) == generated > 1
    assert rows_of(model, seed=1) != first
    files = list(cache.rglob("*.jsonl"))
    assert len(files) == 2
    for file in files:
        file.unlink()
    assert rows_of(model) == first


def test_more_rows_are_appended(model: Path, waves: list[int]) -> None:
    few = rows_of(model, 2)
    file = OwnText(model, "cpu", 0).file
    before = file.read_text()
    done = len(waves)
    many = rows_of(model, 6)
    assert many[:2] == few
    assert len(waves) > done
    assert file.read_text().startswith(before)
    assert rows_of(model, 2) == few


def test_an_interrupted_run_resumes(
    model: Path, waves: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = rows_of(model)
    total = sum(waves)
    OwnText(model, "cpu", 0).file.unlink()
    waves.clear()
    packed = module._packed
    calls = itertools.count()

    def interrupted(*args: object) -> list[Encoded]:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return packed(*args)

    monkeypatch.setattr(module, "_packed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        rows_of(model)
    assert rows_of(model) == whole
    assert sum(waves) == total


@pytest.mark.parametrize(
    "damage",
    [
        lambda lines: [*lines[:2], lines[2][:30]],
        lambda lines: [*lines[:2], lines[2].replace('"number": 2', '"number": 3'), *lines[3:]],
        lambda lines: [*lines[:2], lines[2].replace("completion", "complation"), *lines[3:]],
        lambda lines: [*lines[:2], "not JSON\n", *lines[3:]],
        lambda lines: [*lines[:2], "[]\n", *lines[3:]],
        lambda lines: [*lines[:2], *lines[3:]],
        lambda lines: [*lines[:2], "\ufffd\x00" + lines[2], *lines[3:]],
    ],
)
def test_a_damaged_file_is_made_again_from_there(
    damage: Callable[[list[str]], list[str]],
    model: Path,
    waves: list[int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = rows_of(model)
    file = OwnText(model, "cpu", 0).file
    good = file.read_text()
    lines = good.splitlines(keepends=True)
    total = sum(waves)
    waves.clear()
    file.write_text("".join(damage(lines)))
    assert rows_of(model) == whole
    assert "damaged from line 3 on" in " ".join(capsys.readouterr().err.split())
    assert sum(waves) == total - 2
    assert file.read_text() == good


def test_an_altered_answer_is_noticed(model: Path) -> None:
    whole = rows_of(model)
    file = OwnText(model, "cpu", 0).file
    lines = file.read_text().splitlines(keepends=True)
    row = json.loads(lines[0])
    row["completion"] += " and more"
    file.write_text("".join([json.dumps(row, ensure_ascii=False) + "\n", *lines[1:]]))
    assert rows_of(model) == whole


def test_only_answers_are_scored_and_end_as_the_template_says(model: Path) -> None:
    tokenizer = load_tokenizer(model)
    ended = Answer("What is 2+3?", "5", ended=True).tokens(tokenizer)
    cut = Answer("What is 2+3?", "5", ended=False).tokens(tokenizer)
    asked = prompt_tokens(tokenizer, "What is 2+3?")
    assert ended.ids[: len(asked)] == asked == cut.ids[: len(asked)]
    assert set(ended.labels[: len(asked)]) == {IGNORE}
    assert tokenizer.eos_token_id in ended.labels
    assert cut.ids == [*asked, *tokenizer("5")["input_ids"]]
    assert cut.labels[len(asked) :] == cut.ids[len(asked) :]


def test_without_a_template_the_prompt_is_continued(model: Path) -> None:
    tokenizer = load_tokenizer(model)
    tokenizer.chat_template = None
    assert prompt_tokens(tokenizer, "Once upon") == tokenizer("Once upon")["input_ids"]
    ended = Answer("Once upon", " a time", ended=True).tokens(tokenizer)
    words = tokenizer(" a time")["input_ids"]
    assert ended.labels[-len(words) - 1 :] == [*words, tokenizer.eos_token_id]


def test_used_up_prompts_are_asked_again_with_other_numbers(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "builtin_prompts", lambda: builtin_prompts()[:2])
    rows_of(model)
    file = OwnText(model, "cpu", 0).file
    answers = [json.loads(line) for line in file.read_text().splitlines()]
    again = [one["completion"] for one in answers if one["prompt"] == builtin_prompts()[0]]
    assert len(again) > 1
    assert len(set(again)) == len(again)


def test_one_line_announces_it(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = OwnText(model, "cpu", 0)
    for _ in range(2):
        own.rows(load_tokenizer(model), 2, SEQ)
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("calibration: 2 x 96 tokens of the model's own answers") == 1
    assert "(code, mathematics, general; seed 0)" in said
    assert own.file.name in said.replace(" ", "")
    assert "--calibration SOURCE" in said


def test_a_model_that_says_nothing_is_an_error(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "builtin_prompts", lambda: builtin_prompts()[:2])
    silent = Answer(builtin_prompts()[0], "", ended=True)
    monkeypatch.setattr(OwnText, "_generate", lambda self, engine, first, count: [silent])
    with pytest.raises(UsageError, match="writes no text"):
        rows_of(model)


def test_no_memory_is_one_message(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "free_memory", lambda device: 1000)
    with pytest.raises(Refused, match="memory to generate text") as caught:
        rows_of(model)
    assert "--calibration SOURCE" in caught.value.hint


def test_a_cache_that_cannot_be_written_is_one_message(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGEWRIGHT_CACHE", str(tmp_path / "file"))
    with pytest.raises(UsageError, match="cannot be written") as caught:
        rows_of(model)
    assert "EDGEWRIGHT_CACHE" in caught.value.hint


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_directory() == tmp_path / "cache"
    monkeypatch.delenv("EDGEWRIGHT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_directory() == tmp_path / "xdg" / "edgewright"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_directory() == tmp_path / ".cache" / "edgewright"


def test_the_file_stands_for_model_seed_and_settings(
    make_model: MakeModel, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = OwnText(model, "cpu", 0).file
    assert OwnText(model, "cpu", 0).file == one
    others = {OwnText(model, "cpu", 1).file, OwnText(make_model("llama", seed=5), "cpu", 0).file}
    monkeypatch.setattr(Sampling, "of", lambda model: Sampling(temperature=1.0))
    others.add(OwnText(model, "cpu", 0).file)
    monkeypatch.setattr(module, "prompts_hash", lambda: "other")
    others.add(OwnText(model, "cpu", 0).file)
    assert len(others | {one}) == 5


def test_settings_are_those_of_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert Sampling.of(tmp_path) == Sampling()
    file = tmp_path / "generation_config.json"
    file.write_text('{"top_p": 0.7, "top_k": 20, "temperature": 0.1}')
    assert Sampling.of(tmp_path) == Sampling(top_p=0.7, top_k=20)
    file.write_text('{"top_p": null, "top_k": 0}')
    assert Sampling.of(tmp_path) == Sampling()
