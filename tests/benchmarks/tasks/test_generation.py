"""Batches of prompts: answered as one by one, by transformers' own `generate` too."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from edgewright.benchmarks.tasks.accuracy import pad
from edgewright.benchmarks.tasks.backends import TorchBackend, open_backend
from edgewright.benchmarks.tasks.generation import by_length, generate_texts, stops_at
from edgewright.checkpoints.tokenizer import load_tokenizer
from edgewright.data.packing import IGNORE, Encoded
from edgewright.export.onnx.export import export_onnx

PROMPTS = [
    [(31 * i + 7 * k) % 400 + 20 for k in range(length)]
    for i, length in enumerate((3, 20, 9, 20, 1, 13))
]


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "mixtral"])
def test_a_batch_gives_what_transformers_gives_one_by_one(make_model, family: str) -> None:
    """A model with windows of 16 tokens; some prompts are longer. Rows end at different steps."""
    path = make_model(family, vocab_size=512)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    limits = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    free = [
        model.generate(torch.tensor([p]), eos_token_id=None, **limits)[0, len(p) :].tolist()
        for p in PROMPTS
    ]
    eos = [free[0][4], free[1][7]]  # tokens that the model writes, so that answers end early
    expected = [next((row[:i] for i, token in enumerate(row) if token in eos), row) for row in free]
    assert len({len(row) for row in expected}) > 1
    assert generate_texts(TorchBackend(path), PROMPTS, 12, eos) == expected


def test_an_artifact_answers_in_batches_as_one_by_one_and_stops_where_it_is_told(
    make_model, tmp_path: Path
) -> None:
    export_onnx(make_model("llama"), tmp_path / "onnx", "fp32")
    backend = open_backend(tmp_path / "onnx")
    alone = [generate_texts(backend, [p], 10, [])[0] for p in PROMPTS]
    assert generate_texts(backend, PROMPTS, 10, []) == alone
    stopped = generate_texts(backend, PROMPTS, 10, [], lambda tokens: alone[1][3] in tokens)
    assert stopped == [
        next((row[: i + 1] for i, token in enumerate(row) if token == alone[1][3]), row)
        for row in alone
    ]


def test_batches_are_full_and_no_larger_than_allowed() -> None:
    lengths = [5, 100, 7, 90, 6, 400]
    batches = list(by_length(lengths, tokens=200))
    assert sorted(i for batch in batches for i in batch) == list(range(6))
    assert batches[0] == [5], "a row beyond the limit goes alone"
    assert all(len(b) * max(lengths[i] for i in b) <= 200 for b in batches[1:])
    assert [len(b) for b in by_length([1] * 10, tokens=1000, rows=4)] == [4, 4, 2]


def test_a_stop_string_is_found_across_tokens_and_only_near_the_end(make_model) -> None:
    tokenizer = load_tokenizer(make_model("llama"))
    ended = stops_at(tokenizer, ["\nQuestion:", ""])
    assert ended is not None
    ids = tokenizer("12+30=42\nQuestion: more", add_special_tokens=False)["input_ids"]
    first = next(n for n in range(1, len(ids) + 1) if "\nQuestion:" in tokenizer.decode(ids[:n]))
    assert not any(ended(ids[:n]) for n in range(1, first))
    assert ended(ids[:first])
    assert stops_at(tokenizer, [""]) is None


def test_rows_are_padded_on_the_right() -> None:
    rows = [Encoded([1, 2, 3], [IGNORE, 2, 3]), Encoded([4, 5], [4, IGNORE])]
    padded = pad(rows, 0)
    assert padded["input_ids"].tolist() == [[1, 2, 3], [4, 5, 0]]
    assert padded["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert padded["labels"].tolist() == [[IGNORE, 2, 3], [4, IGNORE, IGNORE]]
