"""Continuous batching in ONNX Runtime gives what each prompt gives alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgewright.console import progress
from edgewright.export.onnx import slots
from edgewright.export.onnx.cut import Cut
from edgewright.export.onnx.export import export_onnx
from edgewright.export.onnx.runtime import OnnxDecoder
from edgewright.export.onnx.slots import OnnxEngine
from edgewright.generation import memory
from edgewright.generation.decoding import Decoding
from edgewright.generation.generate import Engine, generate

MakeModel = Callable[..., Path]
PROMPTS = [
    [(31 * i + 7 * k) % 400 + 20 for k in range(length)]
    for i, length in enumerate((3, 40, 9, 20, 1, 33, 20, 2, 27))
]
NEW = 24
ENDS_EARLY = Decoding(NEW, ended=lambda tokens: len(tokens) > tokens[0] % 20)


def answers_of(
    engine: Engine, prompts: Sequence[Sequence[int]], decoding: Decoding
) -> list[list[int]]:
    with progress("answering", len(prompts)) as bar:
        return generate(engine, prompts, decoding, bar)


BEGUN_ALIKE = [[*range(21, 45), *prompt] for prompt in PROMPTS]
"""The same beginning is longer than the windows of the model."""


def alone(decoder: OnnxDecoder, prompts: Sequence[Sequence[int]] = PROMPTS) -> list[list[int]]:
    """The answers to the prompts, one by one and without a batch, cut where they end early."""
    answers = [list(decoder.stream(prompt, NEW)) for prompt in prompts]
    return [answer[: 1 + answer[0] % 20] for answer in answers]


@pytest.fixture(scope="module", params=["onnx", "ort"])
def decoder(
    request: pytest.FixtureRequest, make_model: MakeModel, tmp_path_factory: pytest.TempPathFactory
) -> OnnxDecoder:
    """Windows of 16 in two of three layers; logits of the last position, or of all."""
    out = tmp_path_factory.mktemp("artifact") / "out"
    cut = Cut(last_logits=request.param == "ort")
    export_onnx(make_model("gemma3_text"), out, "fp32", format=request.param, cut=cut)
    return OnnxDecoder(out, 1)


@pytest.mark.parametrize("rows", [2, 4, 96])
def test_rows_that_are_replaced_in_onnx_runtime_answer_as_alone(
    decoder: OnnxDecoder, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    """With little slack, the rows of a cache that is written in place move back again and again."""
    monkeypatch.setattr(slots, "SLACK", 3)
    monkeypatch.setattr(memory, "MOST_ROWS", rows)
    expected = alone(decoder)
    assert len({len(answer) for answer in expected}) > 2
    assert answers_of(OnnxEngine(decoder), PROMPTS, ENDS_EARLY) == expected


@pytest.mark.parametrize("chunk", [7, 2048])
def test_a_beginning_that_prompts_share_is_prefilled_once_in_onnx_runtime(
    decoder: OnnxDecoder, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(slots, "chunk_tokens", lambda *_: chunk)
    monkeypatch.setattr(memory, "MOST_ROWS", 4)
    expected = alone(decoder, BEGUN_ALIKE)
    passes: list[int] = []
    step = decoder.step

    def counted(ids: NDArray[np.int64], *others: Any) -> NDArray[np.float32]:
        passes.append(ids.size)
        return step(ids, *others)

    monkeypatch.setattr(decoder, "step", counted)
    assert answers_of(OnnxEngine(decoder), BEGUN_ALIKE, ENDS_EARLY) == expected
    whole = sum(len(prompt) for prompt in BEGUN_ALIKE)
    steps = sum(map(len, expected))
    assert sum(passes) - steps < whole - 4 * 24, "padding costs less than what is shared saves"


def test_equal_prompts_share_all_but_the_last_token_in_onnx_runtime(decoder: OnnxDecoder) -> None:
    equal = [BEGUN_ALIKE[1]] * 3
    assert answers_of(OnnxEngine(decoder), equal, ENDS_EARLY) == alone(decoder, equal)


def test_a_longer_prompt_may_join_later(decoder: OnnxDecoder) -> None:
    """A scheduler starts with the longest; the rows themselves do not depend on that."""
    rows = OnnxEngine(decoder).slots(2, 60)
    short, long = PROMPTS[0], PROMPTS[1]
    rows.append([short[:-1]])
    first = rows.step([short[-1]])[0]
    rows.append([long[:-1]])
    both = rows.step([7, long[-1]])
    want = [*short, 7], long
    np.testing.assert_allclose(first, logits_of(decoder, short), atol=1e-4)
    for row, ids in zip(both, want, strict=True):
        np.testing.assert_allclose(row, logits_of(decoder, ids), atol=1e-4)


def logits_of(decoder: OnnxDecoder, ids: list[int]) -> np.ndarray:
    """The logits after these tokens, alone in a batch."""
    one = np.array([ids])
    return decoder.forward(one, np.ones_like(one))[0][0, -1]


def test_a_prefill_of_an_artifact_is_split(
    decoder: OnnxDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "chunk_tokens", lambda *_: 7)
    assert answers_of(OnnxEngine(decoder), PROMPTS, ENDS_EARLY) == alone(decoder)


def test_a_windowed_cache_answers_one_prompt_at_a_time(
    make_model: MakeModel, tmp_path: Path
) -> None:
    """Padding would fill its sinks."""
    export_onnx(make_model("llama"), tmp_path / "out", "fp32", cut=Cut(window=24, sinks=3))
    windowed = OnnxDecoder(tmp_path / "out", 1)
    assert OnnxEngine(windowed).rows_for(100, 9) == 1
    assert answers_of(OnnxEngine(windowed), PROMPTS, ENDS_EARLY) == alone(windowed)
    same = alone(windowed, BEGUN_ALIKE)
    assert answers_of(OnnxEngine(windowed), BEGUN_ALIKE, ENDS_EARLY) == same
