"""Data: every kind of source and every way it can be wrong, windows, prompts, and the generated problems."""

from __future__ import annotations

import itertools
import json
import math
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from edgewright.data.packing import (
    IGNORE,
    Encoded,
    Example,
    encode,
    pack,
    pad,
    render_prompt,
    shuffled_forever,
)
from edgewright.data.reasoning import (
    HELD_OUT,
    TASKS,
    Problem,
    extract_answer,
    held_out,
    held_out_questions,
    is_correct,
    training_problems,
)
from edgewright.data.sources import Source, rows_hash, scoring_rows, training_rows
from edgewright.errors import EdgewrightError, UsageError
from edgewright.steps.context import CalibrationData


@pytest.fixture(scope="module")
def tokenizer(tokenizer_dir: Path) -> Any:
    """The demo's: no token before a text, and a chat template."""
    return AutoTokenizer.from_pretrained(tokenizer_dir)


@pytest.fixture(scope="module")
def llama_like(tokenizer_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same tokens, no template, and a beginning-of-text token (<|user|>) before every text."""
    folder = tmp_path_factory.mktemp("llama_like")
    tokenizer = json.loads((tokenizer_dir / "tokenizer.json").read_text())
    first = {"SpecialToken": {"id": "<|user|>", "type_id": 0}}
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [first, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [
            first,
            {"Sequence": {"id": "A", "type_id": 0}},
            {"Sequence": {"id": "B", "type_id": 1}},
        ],
        "special_tokens": {"<|user|>": {"id": "<|user|>", "ids": [1], "tokens": ["<|user|>"]}},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|endoftext|>",
        "bos_token": "<|user|>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return AutoTokenizer.from_pretrained(folder)


def jsonl(file: Path, *rows: Any) -> Source:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Source.parse(f"jsonl:{file}")


# SOURCE strings


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a data source"),
        ("story.txt", "not a data source"),
        ("csv:story.txt", "csv:story.txt: not a data source"),
        ("builtin:", "no such built-in data"),
        ("builtin:poetry", "no such built-in data"),
        ("text:", "no such file"),
        ("text:missing.txt", "no such file: missing.txt"),
        ("jsonl:missing.jsonl", "no such file: missing.jsonl"),
        ("jsonl:missing.jsonl:text", "no such file: missing.jsonl"),
        ("parquet:missing.parquet", "no such file: missing.parquet"),
    ],
)
def test_bad_source_strings(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        Source.parse(text)
    assert caught.value.hint
    assert caught.value.exit_code == 2


def test_directories_and_empty_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        Source.parse(f"text:{tmp_path}")
    (tmp_path / "empty.txt").touch()
    with pytest.raises(UsageError, match="the file is empty"):
        Source.parse(f"text:{tmp_path / 'empty.txt'}")


def test_good_source_strings(tmp_path: Path) -> None:
    file = tmp_path / "with:colon.jsonl"
    file.write_text("{}")
    assert Source.parse(f"jsonl:{file}") == Source("jsonl", str(file))
    assert Source.parse(f"jsonl:{file}:body") == Source("jsonl", str(file), "body")
    assert Source.parse(f"text:{file}") == Source("text", str(file))
    assert Source.parse("hf:wikitext:wikitext-2-raw-v1:test") == Source(
        "hf", "wikitext", "wikitext-2-raw-v1:test"
    )
    for text in (
        f"jsonl:{file}:body",
        f"jsonl:{file}",
        "hf:wikitext:a:b",
        "hf:wikitext",
        "builtin:reasoning",
    ):
        assert str(Source.parse(text)) == text
    assert (Source.parse(f"jsonl:{file}:body").label, Source.parse("builtin:reasoning").label) == (
        "with:colon",
        "reasoning",
    )


def test_fingerprint_follows_the_content(tmp_path: Path) -> None:
    one, two = tmp_path / "one.txt", tmp_path / "two.txt"
    one.write_text("same")
    two.write_text("same")
    first, second = Source.parse(f"text:{one}"), Source.parse(f"text:{two}")
    assert first.fingerprint() == second.fingerprint()
    two.write_text("other")
    assert first.fingerprint() != second.fingerprint()
    assert Source.parse("hf:a").fingerprint() != Source.parse("hf:b").fingerprint()


# Reading files


def test_text_is_read_whole_and_in_order(tmp_path: Path, tokenizer: Any) -> None:
    text = "".join(f"line {i} ends\n" for i in range(4500)) + "and no newline"
    (tmp_path / "long.txt").write_text(text)
    source = Source.parse(f"text:{tmp_path / 'long.txt'}")
    examples = list(source.training(0))
    assert len(examples) > 1
    assert "".join(e.completion for e in examples) == text
    decoded = tokenizer.decode(
        [i for row in training_rows(tokenizer, source, 64, 0) for i in row.ids]
    )
    assert text.startswith(decoded)
    assert 0 <= len(text) - len(decoded) < 64 * 8


@pytest.mark.parametrize(
    ("row", "example"),
    [
        ({"text": "a"}, Example("a")),
        ({"id": 1, "content": "a"}, Example("a")),
        ({"question": "q", "answer": "a"}, Example("a", "q")),
        ({"prompt": "q", "completion": "a"}, Example("a", "q")),
        ({"instruction": "q", "output": "a"}, Example("a", "q")),
        ({"completion": "a"}, Example("a")),
        ({"text": 5}, Example("5")),
    ],
)
def test_rows_of_jsonl(row: dict[str, Any], example: Example, tmp_path: Path) -> None:
    source = jsonl(tmp_path / "a.jsonl", row, row)
    assert list(source.training(0)) == [example, example] == list(source.scoring(5))


def test_field_that_is_named(tmp_path: Path) -> None:
    jsonl(tmp_path / "a.jsonl", {"text": "no", "body": "yes"})
    assert list(Source.parse(f"jsonl:{tmp_path / 'a.jsonl'}:body").training(0)) == [Example("yes")]


@pytest.mark.parametrize(
    ("content", "field", "message"),
    [
        (b'{"text": "a"}\n\n{"text": \n', "", "line 3: not JSON"),
        (b'{"text": "a"}\n[1, 2]\n', "", "line 2: not a JSON object"),
        (b'{"text": "a"}\n{"text": "\xff\xfe"}\n', "", "line 2: not UTF-8"),
        (b'{"title": "a", "body": "b"}\n', "", "row 1: no text field among title, body"),
        (b'{"title": "a", "body": "b"}\n', "text", "row 1: no field `text`"),
        (b"\n\n", "", "no rows"),
    ],
)
def test_bad_jsonl(content: bytes, field: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_bytes(content)
    source = Source.parse(f"jsonl:{file}" + (f":{field}" if field else ""))
    with pytest.raises(UsageError, match=message) as caught:
        list(source.training(0))
    assert str(file) in str(caught.value)
    assert "title, body" in caught.value.hint if field else caught.value.hint


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("déjà vu\n".encode("latin-1"))
    with pytest.raises(UsageError, match=r"latin\.txt: not UTF-8 text") as caught:
        list(Source.parse(f"text:{tmp_path / 'latin.txt'}").training(0))
    assert "UTF-8" in caught.value.hint


def test_files_have_no_verifier(text_file: Path) -> None:
    with pytest.raises(UsageError, match="has no verifier"):
        Source.parse(f"text:{text_file}").problems(4)


# From text to rows


def test_windows_are_full_and_join_end_to_end(tokenizer: Any, text_file: Path) -> None:
    source, whole = Source.parse(f"text:{text_file}"), tokenizer(text_file.read_text())["input_ids"]
    rows = list(training_rows(tokenizer, source, 32, 0))
    assert [i for row in rows for i in row.ids] == whole[: len(whole) // 32 * 32]
    assert all(row.labels == row.ids and len(row.ids) == 32 for row in rows)
    assert (
        list(training_rows(tokenizer, source, 32, 0, 3))
        == rows[:3]
        == scoring_rows(tokenizer, source, 32, 3)
    )


def test_every_window_starts_with_the_tokenizers_prefix(llama_like: Any, text_file: Path) -> None:
    source, whole = (
        Source.parse(f"text:{text_file}"),
        llama_like(text_file.read_text(), add_special_tokens=False)["input_ids"],
    )
    rows = list(training_rows(llama_like, source, 32, 0))
    assert {(row.ids[0], row.labels[0], len(row.ids)) for row in rows} == {(1, IGNORE, 32)}
    assert [i for row in rows for i in row.ids[1:]] == whole[: len(whole) // 31 * 31]
    assert all(row.labels[1:] == row.ids[1:] for row in rows)


def test_prompts_are_rendered_and_not_scored(
    tokenizer: Any, llama_like: Any, tmp_path: Path
) -> None:
    example = Example("2+3=5\n</think>\n5", "What is 2 + 3?")
    row = encode(tokenizer, example)
    assert (
        tokenizer.decode(row.ids)
        == "<|user|>What is 2 + 3?<|assistant|><think>\n2+3=5\n</think>\n5<|endoftext|>"
    )
    assert (
        tokenizer.decode([i for i in row.labels if i != IGNORE])
        == "2+3=5\n</think>\n5<|endoftext|>"
    )
    assert all(label in (IGNORE, i) for i, label in zip(row.ids, row.labels, strict=True))
    plain = encode(llama_like, example)
    assert (
        llama_like.decode(plain.ids)
        == "<|user|>Question: What is 2 + 3?\nAnswer: <think>\n2+3=5\n</think>\n5<|endoftext|>"
    )
    assert plain.ids.count(1) == 1
    assert render_prompt(tokenizer, "x").endswith("<think>\n")
    scored = scoring_rows(
        tokenizer,
        jsonl(tmp_path / "qa.jsonl", *[{"question": "What is 2 + 3?", "answer": "5"}] * 3),
        64,
        2,
    )
    assert [tokenizer.decode(r.ids) for r in scored] == [
        "<|user|>What is 2 + 3?<|assistant|><think>\n5<|endoftext|>"
    ] * 2


def test_long_examples_are_cut_and_unscorable_ones_refused(tokenizer: Any, tmp_path: Path) -> None:
    source = jsonl(tmp_path / "qa.jsonl", {"question": "What is 2 + 3? " * 4, "answer": "5"})
    assert len(scoring_rows(tokenizer, source, 256, 1)[0].ids) < 256
    with pytest.raises(UsageError, match="rows of 8 tokens end before anything to score") as caught:
        scoring_rows(tokenizer, source, 8, 1)
    assert "seq-len" in caught.value.hint


def test_too_little_text(tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("too short")
    source = Source.parse(f"text:{tmp_path / 'short.txt'}")
    for rows in (
        lambda: training_rows(tokenizer, source, 64, 0),
        lambda: scoring_rows(tokenizer, source, 64, 1),
    ):
        with pytest.raises(UsageError, match="fewer than 64 tokens"):
            rows()


def test_pack_and_pad() -> None:
    pieces = [
        Encoded([1, 2, 3], [IGNORE, 2, 3]),
        Encoded([4, 5], [4, IGNORE]),
        Encoded([6, 7], [6, 7]),
    ]
    assert list(pack(pieces, 3)) == [
        Encoded([1, 2, 3], [IGNORE, 2, 3]),
        Encoded([4, 5, 6], [4, IGNORE, 6]),
    ]
    padded = pad(pieces[:2], 0)
    assert padded["input_ids"].tolist() == [[1, 2, 3], [4, 5, 0]]
    assert padded["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert padded["labels"].tolist() == [[IGNORE, 2, 3], [4, IGNORE, IGNORE]]


def test_epochs_are_shuffled_alike_for_a_seed() -> None:
    rows = [Encoded([i], [i]) for i in range(20)]
    one, two, other = (
        [r.ids[0] for r in itertools.islice(shuffled_forever(rows, seed), 40)] for seed in (1, 1, 2)
    )
    assert one == two != other
    assert sorted(one[:20]) == sorted(one[20:]) == list(range(20))
    assert one[:20] != one[20:]


def test_rows_hash_sees_ids_labels_and_order() -> None:
    rows = [Encoded([1, 2], [1, 2]), Encoded([3, 4], [3, 4])]
    same = [Encoded([1, 2], [1, 2]), Encoded([3, 4], [3, 4])]
    others = [
        rows[::-1],
        rows[:1],
        [rows[0], Encoded([3, 5], [3, 4])],
        [rows[0], Encoded([3, 4], [IGNORE, 4])],
    ]
    assert rows_hash(rows) == rows_hash(same)
    assert len({rows_hash(r) for r in [rows, *others]}) == 5


def test_calibration_rows(make_model: Callable[..., Path], text_file: Path) -> None:
    rows = CalibrationData(f"text:{text_file}", samples=3, seq_len=16).rows(make_model("llama"), 0)
    assert [(tuple(r.shape), r.dtype) for r in rows] == [((2, 16), torch.int64)] * 3


# Generated problems


@pytest.fixture(scope="module")
def evaluation() -> list[Problem]:
    """Every held-out problem of every task."""
    return held_out(HELD_OUT * len(TASKS), tuple(TASKS))


def test_held_out_is_fixed_mixed_and_free_of_doubles(evaluation: list[Problem]) -> None:
    scored = held_out(40)
    assert [p.question for p in Source.parse("builtin:reasoning").problems(41)[:40]] == [
        p.question for p in scored
    ]
    assert [p.task for p in scored[:6]] == [*TASKS, *list(TASKS)[:2]]
    assert [p.task for p in evaluation[:4]] == list(TASKS)
    assert held_out_questions() == {p.question for p in evaluation} >= {p.question for p in scored}
    assert len(held_out_questions()) == len(evaluation) > 900
    assert len(held_out(10**6)) > 700


def test_held_out_questions_never_occur_in_training() -> None:
    examples = list(itertools.islice(Source.parse("builtin:reasoning").training(0), 5000))
    questions = held_out_questions()
    assert not questions & {e.prompt for e in examples}
    stream = training_problems(0, frozenset())
    unfiltered = {p.question for p in itertools.islice(stream, 5000)}
    assert questions & unfiltered  # so the filter has something to do


def test_training_streams() -> None:
    first, again, other = (
        [p.question for p in itertools.islice(training_problems(seed, frozenset()), 300)]
        for seed in (0, 0, 1)
    )
    assert first == again != other
    assert len(set(first) & set(other)) < 100
    stream = [
        p.question for p in itertools.islice(training_problems(3, frozenset(), block=16), 192)
    ]
    assert len(set(stream)) > 150  # later blocks are new problems


def equalities(trace: str) -> Iterator[list[str]]:
    """The terms of every equation in a trace; a line that starts with `=` goes on with the one before it."""
    for line in trace.replace("\n=", "=").splitlines():
        for equation in line.split(", "):
            yield re.sub("^[a-z ]+ (?=[0-9])", "", equation).split("=")


def check_trace(problem: Problem) -> None:
    for terms in equalities(problem.trace):
        assert len(terms) > 1 or re.fullmatch("-?[0-9]+[-+]0", terms[0]), problem.trace
        assert all(re.fullmatch("[-+*%0-9]+", term) for term in terms), terms
        assert len({eval(term) for term in terms}) == 1, terms
    last = list(equalities(problem.trace))[-1]
    if problem.task == "gcd":
        assert last[-1] == "0"
        assert (
            re.split("[-%*]", last[0])[1]
            == problem.answer
            == str(math.gcd(*problem.entry["metadata"]["numbers"]))
        )
    elif problem.task == "leg_counting":  # what has no legs may come last
        assert problem.answer in [terms[-1] for terms in equalities(problem.trace)]
    else:
        assert str(eval(last[-1])) == problem.answer


def test_traces_are_arithmetically_right(evaluation: list[Problem]) -> None:
    for problem in evaluation:
        check_trace(problem)
    for problem in itertools.islice(training_problems(0, frozenset(), block=64), 256):
        check_trace(problem)


def test_right_answers_pass_and_wrong_ones_do_not(evaluation: list[Problem]) -> None:
    for problem in evaluation[::3]:
        assert is_correct(problem, problem.completion)
        assert is_correct(problem, f"<think>\n{problem.completion}\nand more")
        wrong = str(int(problem.answer) + 1)
        assert not is_correct(problem, f"{problem.trace}\n</think>\n{wrong}")
        assert not is_correct(problem, f"{problem.trace}\n{problem.answer}")
        assert not is_correct(problem, "")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("a</think>\n42\nmore", "42"),
        ("1</think>2</think> 3 ", "3"),
        ("42", ""),
        ("", ""),
        ("</think>", ""),
        ("<think></think>\n\n7", "7"),
    ],
)
def test_extract_answer(text: str, answer: str) -> None:
    assert extract_answer(text) == answer


def test_tables_need_an_extra_or_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(EdgewrightError, match="need the datasets package") as caught:
        list(Source.parse(f"parquet:{tmp_path / 'a.parquet'}").training(0))
    assert "edgewright[data]" in caught.value.hint


def test_generated_data_needs_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(EdgewrightError, match="reasoning-gym") as caught:
        held_out(1)
    assert "edgewright[eval]" in caught.value.hint
