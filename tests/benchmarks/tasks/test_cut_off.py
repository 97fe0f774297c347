"""Answers that reach the most tokens are counted: here, on a server, and after an interruption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from scripted_backend import lines, problems

from edgewright.benchmarks.kv_cache.options import KvOptions
from edgewright.benchmarks.kv_cache.study import kv_study
from edgewright.benchmarks.measure import measure
from edgewright.benchmarks.options import EvaluateOptions
from edgewright.benchmarks.tasks.accuracy import Answer, cut_off_note
from edgewright.benchmarks.tasks.generation import end_tokens_of
from edgewright.benchmarks.tasks.kept_answers import KeptAnswers
from edgewright.benchmarks.tasks.programs import read_exercises, solve_exercises
from edgewright.benchmarks.tasks.writers import LocalWriter, TaskPrompt
from edgewright.checkpoints.tokenizer import load_tokenizer
from edgewright.console import Bar
from edgewright.generation.decoding import Decoding

REASONER = Path(__file__).parents[3] / "demo" / "model"


class Obedient:
    """A backend that says the text of its prompt up to where the decoding ends it."""

    name, dtype, device, eos = "obedient", "float32", "cpu", (0,)

    def generate(self, prompts: Any, decoding: Decoding, bar: Bar) -> list[list[int]]:
        rows: list[list[int]] = []
        for prompt in prompts:
            row: list[int] = []
            for token in (*prompt, min(decoding.ends)):
                row.append(token)
                if decoding.complete(row):
                    break
            if decoding.answered:
                decoding.answered(len(rows), row)
            rows.append(row)
        return rows


def written(make_model: Any, kept: KeptAnswers | None, most: int, stops: tuple[str, ...]) -> Any:
    tokenizer = load_tokenizer(make_model("llama"))
    tokenizer.chat_template = None
    backend: Any = Obedient()
    assert end_tokens_of(backend, tokenizer)
    asked = [TaskPrompt([], text) for text in ("7 8 9 7 8 9", "7", "7 8;")]
    writer = LocalWriter(backend, tokenizer, kept)
    return len(tokenizer("7 8;")["input_ids"]), writer.write(asked, most, stops)


def test_an_answer_is_cut_off_if_it_has_no_end(make_model: Any, tmp_path: Path) -> None:
    length, _ = written(make_model, None, 99, ())
    _, free = written(make_model, None, length, ())
    assert [one.cut_off for one in free] == [True, False, True]
    for _ in range(2):  # the second time, all answers are kept ones
        _, stopped = written(make_model, KeptAnswers(tmp_path / "kept"), length, (";",))
        assert [one.cut_off for one in stopped] == [True, False, False], (
            "an answer that ends with its last token has an end"
        )
    assert len((tmp_path / "kept").read_text().splitlines()) >= 3


def answers(*cut: bool) -> list[Answer]:
    return [Answer("t", "q", "1", "1", True, one) for one in cut]


def test_the_note() -> None:
    assert cut_off_note(answers(False, False), "t", 6) == []
    (one,) = cut_off_note(answers(False, True), "t", 6)
    assert one.startswith("1 of 2 answers of t was cut off at 6 tokens")
    (both,) = cut_off_note(answers(True, True), "t", 1024)
    assert "2 of 2 answers of t were cut off at 1,024 tokens" in both
    assert "--max-new-tokens" in both


def test_a_measurement_notes_it(tmp_path: Path) -> None:
    sums = lines(tmp_path / "s.jsonl", *({"question": f"{n}?", "answer": "1"} for n in (1, 2)))
    options = EvaluateOptions(tasks=("reasoning", f"qa:{sums}"), limit=2, latency=None)
    short = measure(REASONER, options.model_copy(update={"max_new_tokens": 3}))
    found = [note for note in short.notes if "cut off" in note]
    assert [note.partition(";")[0] for note in found] == [
        "2 of 2 answers of reasoning were cut off at 3 tokens",
        "2 of 2 answers of s were cut off at 3 tokens",
    ]
    assert all(answer["cut_off"] for answer in short.answers)
    long = EvaluateOptions(tasks=("reasoning",), limit=2, max_new_tokens=400, latency=None)
    assert not measure(REASONER, long).notes


def test_answers_with_code_are_counted(make_model: Any, tmp_path: Path) -> None:
    row = {"text": "Write f.", "test_list": ["assert f(1)"]}
    tokenizer = load_tokenizer(make_model("llama"))
    tokenizer.chat_template = None
    backend: Any = Obedient()
    exercises = read_exercises(problems(lines(tmp_path / "c.jsonl", row, row)))
    found, _ = solve_exercises(LocalWriter(backend, tokenizer), "c", exercises, 2, 4, workers=1)
    assert all(one.cut_off for one in found)


@pytest.mark.parametrize(("most", "noted"), [(3, True), (400, False)])
def test_a_study_of_caches_notes_it(most: int, noted: bool) -> None:
    options = KvOptions(
        perplexity=(), tasks=("reasoning",), limit=2, max_new_tokens=most, bits=(8,)
    )
    notes = kv_study(REASONER, options, [])["notes"]
    assert bool(notes) == noted
    assert all("2 of 2 answers of reasoning were cut off" in note for note in notes)
