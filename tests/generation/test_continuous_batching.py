"""Continuous batching in torch gives what transformers' own `generate` gives one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from edgewright.checkpoints.config import read_architecture
from edgewright.checkpoints.loading import load_model
from edgewright.console import progress
from edgewright.generation import memory, torch_engine
from edgewright.generation.decoding import Decoding, until_end
from edgewright.generation.generate import Engine, generate
from edgewright.generation.torch_engine import TorchEngine

MakeModel = Callable[..., Path]
FAMILIES = (
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma3_text",
    "mixtral",
    "qwen2_moe",
    "qwen3_moe",
)
PROMPTS = [
    [(31 * i + 7 * k) % 400 + 20 for k in range(length)]
    for i, length in enumerate((3, 40, 9, 20, 1, 33, 20, 2, 27))
]
NEW = 24


BEGUN_ALIKE = [[*range(21, 45), *prompt] for prompt in PROMPTS]
"""The same beginning is longer than the windows of the models that have them."""


def stock_answers(
    path: Path, eos: list[int] | None = None, prompts: Sequence[Sequence[int]] = PROMPTS
) -> list[list[int]]:
    """The new tokens of `model.generate` for each prompt alone."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    limits = {"max_new_tokens": NEW, "do_sample": False, "pad_token_id": 0}
    return [
        model.generate(torch.tensor([p]), eos_token_id=eos, **limits)[0, len(p) :].tolist()
        for p in prompts
    ]


def answers_of(
    engine: Engine, prompts: Sequence[Sequence[int]], decoding: Decoding
) -> list[list[int]]:
    with progress("answering", len(prompts)) as bar:
        return generate(engine, prompts, decoding, bar)


def engine_of(path: Path) -> TorchEngine:
    return TorchEngine(load_model(path), read_architecture(path))


@pytest.mark.parametrize("rows", [2, 4, 96])
@pytest.mark.parametrize("family", FAMILIES)
def test_rows_that_are_replaced_answer_as_alone(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch, family: str, rows: int
) -> None:
    """Rows end at different steps; models with windows have prompts longer than the window."""
    path = make_model(family, vocab_size=512)
    free = stock_answers(path)
    eos = [free[0][4], free[1][7]]  # tokens that the model writes
    expected = [answer[: 1 + answer[0] % 20] for answer in stock_answers(path, eos)]
    assert len({len(answer) for answer in expected}) > 2
    monkeypatch.setattr(memory, "MOST_ROWS", rows)
    decoding = Decoding(NEW, eos, lambda tokens: len(tokens) > tokens[0] % 20)
    assert answers_of(engine_of(path), PROMPTS, decoding) == expected


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_a_prefill_in_chunks_gives_the_same(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    path = make_model(family, vocab_size=512)
    expected = stock_answers(path)
    monkeypatch.setattr(torch_engine, "chunk_tokens", lambda *_, **__: 7)
    assert answers_of(engine_of(path), PROMPTS, Decoding(NEW)) == expected


@pytest.mark.parametrize("chunk", [7, 2048])
@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3_text"])
def test_a_beginning_that_prompts_share_is_prefilled_once(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch, family: str, chunk: int
) -> None:
    path = make_model(family, vocab_size=512)
    expected = stock_answers(path, prompts=BEGUN_ALIKE)
    monkeypatch.setattr(torch_engine, "chunk_tokens", lambda *_, **__: chunk)
    monkeypatch.setattr(memory, "MOST_ROWS", 4)
    engine = engine_of(path)
    passes: list[int] = []
    engine._model.register_forward_pre_hook(  # pyright: ignore[reportPrivateUsage]
        lambda _, __, kwargs: passes.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    assert answers_of(engine, BEGUN_ALIKE, Decoding(NEW)) == expected
    whole = sum(len(prompt) for prompt in BEGUN_ALIKE)
    steps = NEW * len(PROMPTS)
    assert sum(passes) - steps < whole - 4 * 24, "padding costs less than what is shared saves"


def test_equal_prompts_share_all_but_the_last_token(make_model: MakeModel) -> None:
    path = make_model("llama", vocab_size=512)
    equal = [BEGUN_ALIKE[1]] * 3
    assert answers_of(engine_of(path), equal, Decoding(NEW)) == stock_answers(path, prompts=equal)


def test_answers_end_where_a_function_says_so(make_model: MakeModel) -> None:
    path = make_model("llama", vocab_size=512)
    free = stock_answers(path)
    stop = free[1][5]
    answers = answers_of(engine_of(path), PROMPTS, Decoding(NEW, ended=lambda t: t[-1] == stop))
    assert answers == [[*until_end(one, [stop]), stop] if stop in one else one for one in free]


def test_a_chooser_gets_the_number_and_the_step_of_every_row(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second most likely token at odd steps of odd prompts, with any number of rows."""

    def choose(logits: Tensor, rows: Tensor, steps: Tensor) -> Tensor:
        return logits.topk(2).indices[torch.arange(len(rows)), (rows % 2) * (steps % 2)]

    path = make_model("qwen3", vocab_size=512)
    whole = answers_of(engine_of(path), PROMPTS, Decoding(9, choose=choose))
    alone = [answers_of(engine_of(path), [p], Decoding(9, choose=choose))[0] for p in PROMPTS]
    assert whole[::2] == alone[::2]
    assert whole[1::2] != alone[1::2]
    monkeypatch.setattr(memory, "MOST_ROWS", 2)
    assert answers_of(engine_of(path), PROMPTS, Decoding(9, choose=choose)) == whole


def test_no_prompts_give_no_answers(make_model: MakeModel) -> None:
    assert answers_of(engine_of(make_model("llama")), [], Decoding(4)) == []
