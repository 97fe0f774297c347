"""Speculative decoding: the arithmetic of a round by hand, and predictions by direction."""

from __future__ import annotations

import dataclasses
import itertools
import json

import pytest
from known_models import AGX, NANO, QWEN3, QWEN25_3B

from edgewright.errors import UsageError
from edgewright.models import Architecture
from edgewright.targets import Workload, draft_engines, load_target, predict_draft
from edgewright.targets.drafts import ASSUMED_AGREEMENT, MOST_DRAFTED, DraftPrediction
from edgewright.targets.engine_speed import hardware_of
from edgewright.targets.roofline import (
    DECODE_TERMS,
    Hardware,
    Kernels,
    TokenPass,
    decode_terms,
    load_fit,
    pass_seconds,
)
from edgewright.targets.speculation import Round, best_count, break_even, expected_tokens

ONE_EACH = dict.fromkeys(DECODE_TERMS, 1.0)
HARDWARE = Hardware(bandwidth=1e11, macs=1e13, clock=1e9)


def drafted(model: Architecture, draft: Architecture, **options: object) -> DraftPrediction:
    """Qwen3 with a draft on AGX Orin at MAXN, in vLLM."""
    work = Workload("int4", batch=int(str(options.pop("batch", 1))))
    found = predict_draft(
        load_target(AGX), (model, work), (draft, work), "vllm", power_mode="MAXN", **options
    )  # type: ignore[arg-type]
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("agreement", "proposed", "tokens"),
    [
        (0.0, 5, 1.0),  # only the model's own token
        (1.0, 5, 6.0),  # all of them
        (0.5, 1, 1.5),
        (0.5, 3, 1.875),  # 1 + 1/2 + 1/4 + 1/8
        (0.8, 4, 3.3616),  # (1 - 0.8^5) / (1 - 0.8)
    ],
)
def test_the_tokens_of_a_round_are_those_of_the_paper(
    agreement: float, proposed: int, tokens: float
) -> None:
    assert expected_tokens(agreement, proposed) == pytest.approx(tokens)


def test_a_round_takes_its_passes_and_one_check() -> None:
    # Three passes of 2 ms and a check of 14 ms yield 2.5 tokens in 20 ms.
    one = Round(draft_seconds=2e-3, check_seconds=14e-3, passes=3, tokens=2.5)
    assert one.seconds == pytest.approx(20e-3)
    assert one.rate == pytest.approx(125)


def test_the_break_even_is_where_a_round_yields_what_it_costs() -> None:
    # One proposed token: 1 + a tokens. A round as long as 1.25 decode steps pays at 0.25.
    assert break_even(1.25, 1) == pytest.approx(0.25)
    assert break_even(0.9, 3) == 0.0
    assert break_even(4.0, 3) == 1.0
    assert break_even(4.01, 3) is None


def test_the_best_count_is_the_lowest_of_the_fastest() -> None:
    assert best_count({1: 5.0, 2: 9.0, 3: 9.0, 4: 1.0}.__getitem__, 4) == 2


def test_a_pass_over_more_tokens_multiplies_more_and_reads_once() -> None:
    one = decode_terms(TokenPass(QWEN25_3B, 2_000_000_000, 256), HARDWARE)
    five = decode_terms(TokenPass(QWEN25_3B, 2_000_000_000, 256, tokens=5), HARDWARE)
    two = decode_terms(TokenPass(QWEN25_3B, 2_000_000_000, 256, batch=2), HARDWARE)
    named = dict(zip(DECODE_TERMS, one, strict=True))
    cache = QWEN25_3B.state_bytes(256)
    assert named["memory"] == pytest.approx((2e9 + cache) / 1e11)
    linears = 36 * (2 * 2048 * 2048 + 2 * 256 * 2048 + 3 * 11008 * 2048)
    assert named["unpacking"] == pytest.approx((linears + 151936 * 2048) / 1e13)
    assert named["compute"] == named["unpacking"] and named["sequences"] == 1e-3
    assert [b / a for a, b in zip(one, five, strict=True)] == pytest.approx([1, 1, 5, 5, 1, 1])
    assert two[0] - one[0] == pytest.approx(cache / 1e11)
    assert [b / a for a, b in zip(one[1:], two[1:], strict=True)] == pytest.approx([1, 2, 2, 1, 2])
    silent = decode_terms(TokenPass(QWEN25_3B, 2_000_000_000, 256, samples=False), HARDWARE)
    assert silent == (*one[:-1], 0.0)


def test_a_large_pass_takes_the_faster_kernels() -> None:
    prefill = {"compute": 0.1, "attention": 1.0, "layers": 1.0}
    kernels = Kernels(ONE_EACH, prefill, vector_tokens=8)
    work = TokenPass(QWEN25_3B, 2_000_000_000, 256, tokens=64)
    terms = dict(zip(DECODE_TERMS, decode_terms(work, HARDWARE), strict=True))
    few = sum(terms.values())
    many = (
        max(terms["memory"], 0.1 * terms["compute"])
        + terms["attention"]
        + terms["layers"]
        + terms["sequences"]
    )
    assert many < few
    assert pass_seconds(work, HARDWARE, kernels) == pytest.approx(many)
    assert pass_seconds(work, HARDWARE, Kernels(ONE_EACH)) == pytest.approx(few)
    small = dataclasses.replace(work, tokens=8)
    assert pass_seconds(small, HARDWARE, kernels) == pass_seconds(
        small, HARDWARE, Kernels(ONE_EACH)
    )


@pytest.mark.parametrize("engine", sorted(set(load_fit().engines) - {"onnxruntime"}))
@pytest.mark.parametrize("board", [AGX, NANO])
def test_more_sequences_never_lower_the_rate_of_all_and_never_raise_that_of_one(
    engine: str, board: str
) -> None:
    target = load_target(board)
    kernels = load_fit().engines[engine].kernels
    for mode in target.power_modes:
        hardware = hardware_of(target, mode)
        seconds = [
            pass_seconds(TokenPass(QWEN3["0.6B"], 400_000_000, 512, batch), hardware, kernels)
            for batch in range(1, 130)
        ]
        rates = [batch / each for batch, each in enumerate(seconds, 1)]
        assert all(later >= earlier for earlier, later in itertools.pairwise(rates))
        assert min(seconds[1:]) > seconds[0]


def test_a_draft_gains_more_the_more_it_is_right_and_the_smaller_it_is() -> None:
    gains = [
        drafted(QWEN3["8B"], QWEN3["0.6B"], agreement=share).speedup
        for share in (0.0, 0.3, 0.6, 0.9, 1.0)
    ]
    assert gains == sorted(gains)
    assert gains[0] < 1 < gains[-1]
    small = drafted(QWEN3["8B"], QWEN3["0.6B"], agreement=0.8, drafted=4)
    large = drafted(QWEN3["8B"], QWEN3["4B"], agreement=0.8, drafted=4)
    assert small.speedup > large.speedup and small.total_bytes < large.total_bytes
    assert small.drafted == 4 and small.tokens_a_round == pytest.approx(3.3616)


def test_a_draft_pays_from_its_break_even_on() -> None:
    found = drafted(QWEN3["8B"], QWEN3["0.6B"], agreement=0.5, drafted=3)
    assert found.break_even is not None
    at = drafted(QWEN3["8B"], QWEN3["0.6B"], agreement=found.break_even, drafted=3)
    below = drafted(QWEN3["8B"], QWEN3["0.6B"], agreement=found.break_even - 0.002, drafted=3)
    assert below.speedup < 1 <= at.speedup
    assert at.alone_tok_s == found.alone_tok_s


def test_the_number_of_proposals_and_the_agreement_have_defaults() -> None:
    found = drafted(QWEN3["8B"], QWEN3["0.6B"])
    assert (found.agreement, found.assumed) == (ASSUMED_AGREEMENT, True)
    others = [
        drafted(QWEN3["8B"], QWEN3["0.6B"], drafted=count) for count in range(1, MOST_DRAFTED + 1)
    ]
    assert found.decode_tok_s == max(other.decode_tok_s for other in others)
    assert json.loads(json.dumps(found.to_dict()))["drafted"] == found.drafted


def test_a_draft_gains_less_in_a_batch() -> None:
    one = drafted(QWEN3["8B"], QWEN3["0.6B"], agreement=0.8, drafted=4)
    eight = drafted(QWEN3["8B"], QWEN3["0.6B"], agreement=0.8, drafted=4, batch=8)
    assert eight.speedup < one.speedup and eight.decode_tok_s > one.decode_tok_s


def test_a_draft_with_other_tokens_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot check tokens"):
        drafted(QWEN3["8B"], QWEN3["0.6B"].with_config(vocab_size=32000))
    with pytest.raises(UsageError, match="at least 1"):
        drafted(QWEN3["8B"], QWEN3["0.6B"], drafted=0)
    with pytest.raises(UsageError, match="0 to 1"):
        drafted(QWEN3["8B"], QWEN3["0.6B"], agreement=70.0)


def test_engines_that_take_a_draft_are_those_that_are_predicted() -> None:
    assert draft_engines(load_target("cpu")) == ()
    assert set(draft_engines(load_target(NANO))) <= set(load_fit().engines)
    int8 = Workload("int8-dynamic")
    pair = (QWEN3["8B"], int8), (QWEN3["0.6B"], int8)
    assert predict_draft(load_target(AGX), *pair, "vllm") is None
