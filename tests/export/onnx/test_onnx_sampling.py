"""Choosing tokens, and generation by the runtime: a batch as a whole, one prompt token by token."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgewright.errors import UsageError
from edgewright.export.onnx.export import export_onnx
from edgewright.export.onnx.runtime import OnnxDecoder
from edgewright.export.onnx.sampling import GREEDY, Sampling, next_tokens

PROMPTS = np.array([[5, 6, 7, 8], [9, 3, 4, 11], [30, 2, 14, 7]])


@pytest.fixture(scope="module", params=["onnx", "ort"])
def decoder(
    request: pytest.FixtureRequest,
    make_model: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> OnnxDecoder:
    out = tmp_path_factory.mktemp("sampled") / request.param
    export_onnx(make_model("llama"), out, "fp32", [[1, 2, 3, 4, 5, 6]], format=request.param)
    return OnnxDecoder(out, 1)


def test_tokens_come_as_often_as_their_shares_say() -> None:
    shares = np.array([0.5, 0.2, 0.2, 0.06, 0.04])
    logits, random = np.log(shares)[None].repeat(20_000, 0), np.random.default_rng(0)

    def counts(**settings: float) -> np.ndarray:
        sampling = Sampling(**settings)  # pyright: ignore[reportArgumentType] - a share is no seed
        return np.bincount(
            next_tokens(logits, [sampling] * len(logits), [random] * len(logits)), minlength=5
        ) / len(logits)

    assert np.abs(counts(temperature=1.0) - shares).max() < 0.015
    squared = shares**2 / (shares**2).sum()
    assert np.abs(counts(temperature=0.5) - squared).max() < 0.015
    nucleus = counts(temperature=1.0, top_p=0.85)
    assert nucleus[3:].sum() == 0
    assert np.abs(nucleus[:3] - shares[:3] / 0.9).max() < 0.015
    assert counts().tolist() == [1, 0, 0, 0, 0]


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(1.5, 0.9, 3)])
def test_a_stream_gives_what_a_row_of_a_batch_gives(
    decoder: OnnxDecoder, sampling: Sampling
) -> None:
    ends = [
        int(
            decoder.generate(PROMPTS[:1], np.ones_like(PROMPTS[:1]), 12, [], sampling=sampling)[
                0, 5
            ]
        )
    ]
    whole = decoder.generate(PROMPTS, np.ones_like(PROMPTS), 12, ends, sampling=sampling)
    for row, prompt in enumerate(PROMPTS):
        alone = Sampling(sampling.temperature, sampling.top_p, sampling.seed + row)
        streamed = list(decoder.stream(prompt.tolist(), 12, ends, alone))
        assert streamed == whole[row, : len(streamed)].tolist()
        assert len(streamed) == 12 or streamed[-1] in ends
    assert len(list(decoder.stream(PROMPTS[0].tolist(), 12, ends, sampling))) <= 6


def test_a_stream_gives_a_token_before_the_next_is_made(
    decoder: OnnxDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, real = [0], decoder.step

    def counted(*args: object) -> object:
        steps[0] += 1
        return real(*args)  # pyright: ignore[reportArgumentType] - passed through

    monkeypatch.setattr(decoder, "step", counted)
    seen = [steps[0] for _ in decoder.stream([5, 6, 7], 4)]
    assert seen == [1, 2, 3, 4]


def test_a_seed_repeats_and_another_differs(decoder: OnnxDecoder) -> None:
    drawn = [
        list(decoder.stream([5, 6, 7], 16, (), Sampling(2.0, 1.0, seed))) for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"seed": -1},
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="temperature"):
        Sampling(**settings)  # pyright: ignore[reportArgumentType] - a share is no seed


def test_an_empty_prompt_is_refused(decoder: OnnxDecoder) -> None:
    with pytest.raises(UsageError, match="no prompt"):
        next(decoder.stream([], 4))
