"""From text to rows of tokens: windows, prompts, labels, packing, padding, shuffling."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonl_source import jsonl
from transformers import AutoTokenizer

from edgewright.data.packing import (
    IGNORE,
    Encoded,
    Example,
    encode,
    pack,
    render_prompt,
    rows_hash,
    shuffled_forever,
)
from edgewright.data.sources import Source, scoring_rows, training_rows
from edgewright.errors import UsageError
from edgewright.steps.context import CalibrationData

pytest_plugins = ["data_fixtures"]


@pytest.fixture(scope="module")
def llama_like(tokenizer_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same tokens without a template, and with a begin token (<|user|>) before every text."""
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
    reason = "all rows end before the first scored token, after 8 tokens"
    with pytest.raises(UsageError, match=reason) as caught:
        scoring_rows(tokenizer, source, 8, 1)
    assert "seq-len" in caught.value.hint


def test_one_row_without_a_prompt_changes_nothing_wherever_it_stands(
    tokenizer: Any, tmp_path: Path
) -> None:
    """Such a row is plain text. Among pairs it is a row like them."""
    rows = [{"question": f"What is 2 + {n}?", "answer": f"{2 + n}"} for n in range(12)]
    plain = {"question": "", "answer": "a text"}
    first = jsonl(tmp_path / "first.jsonl", plain, *rows)
    last = jsonl(tmp_path / "last.jsonl", *rows, plain)
    ids = [[row.ids for row in scoring_rows(tokenizer, source, 64, 50)] for source in (first, last)]
    assert len(ids[0]) == 13
    assert sorted(ids[0]) == sorted(ids[1])


def test_too_little_text(tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("too short")
    source = Source.parse(f"text:{tmp_path / 'short.txt'}")
    for rows in (
        lambda: training_rows(tokenizer, source, 64, 0),
        lambda: scoring_rows(tokenizer, source, 64, 1),
    ):
        with pytest.raises(UsageError, match="fewer than 64 tokens"):
            rows()


def test_pack() -> None:
    pieces = [
        Encoded([1, 2, 3], [IGNORE, 2, 3]),
        Encoded([4, 5], [4, IGNORE]),
        Encoded([6, 7], [6, 7]),
    ]
    assert list(pack(pieces, 3)) == [
        Encoded([1, 2, 3], [IGNORE, 2, 3]),
        Encoded([4, 5, 6], [4, IGNORE, 6]),
    ]


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
