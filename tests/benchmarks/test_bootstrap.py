"""The gate's evidence: that its intervals are right, and how often it is wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest
from gate_samples import answered, gate

from edgewright.benchmarks.bootstrap import Interval, bounds, resample, samples_needed
from edgewright.perf.gate import TEXT, most_any_test_catches, problem_pairs, verdicts, window_pairs

WORDS = ("pass", "fail", "inconclusive")


def test_draws_have_the_mean_and_the_spread_of_resampled_rows() -> None:
    columns = np.random.default_rng(1).normal(size=(40, 2))
    sums = resample(columns, 20_000, seed=2)
    assert sums.shape == (20_000, 2)
    spread = np.sqrt(40 * np.cov(columns.T, bias=True).diagonal())
    assert np.abs(sums.mean(0) - columns.sum(0)).max() < 4 * spread.max() / math.sqrt(20_000)
    assert sums.std(0) == pytest.approx(spread, rel=0.03)
    together = np.corrcoef(sums.T)[0, 1]
    assert together == pytest.approx(np.corrcoef(columns.T)[0, 1], abs=0.03), "rows are drawn whole"


def test_draws_depend_on_the_seed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = np.arange(24.0).reshape(12, 2)
    first = resample(columns, 300, seed=5)
    assert np.array_equal(first, resample(columns, 300, seed=5))
    assert not np.array_equal(first, resample(columns, 300, seed=6))
    monkeypatch.setattr("edgewright.benchmarks.bootstrap.COUNTS_IN_MEMORY", 50)
    assert np.array_equal(first, resample(columns, 300, seed=5)), "drawing in parts draws the same"


def test_bounds_are_those_of_the_normal_distribution_for_many_and_of_students_for_few() -> None:
    draws = np.random.default_rng(3).normal(size=400_000)
    for samples, expected in (
        (100_000, 1.6449),
        (10, 1.8331 * math.sqrt(10 / 9)),
        (5, 2.1318 * math.sqrt(5 / 4)),
    ):
        found = bounds(draws, samples, 0.95)
        assert (found.low, found.high) == pytest.approx((-expected, expected), rel=0.02)
    assert bounds(np.array([1.0, 2.0, np.inf]), 10, 0.6).high in (2.0, np.inf)
    for samples, confidence in ((1, 0.95), (10, 0.5), (10, 1.0)):
        with pytest.raises(ValueError, match="needs 2 samples"):
            bounds(draws, samples, confidence)
    with pytest.raises(ValueError, match="no samples"):
        resample(np.zeros((0, 2)), 10, 0)


def test_as_many_samples_as_were_said_to_be_needed_decide_four_times_in_five() -> None:
    shared = "1" * 350 + "0" * 20
    check = gate(
        answered(shared + "0" * 18 + "1" * 12),
        answered(shared + "1" * 18 + "0" * 12, "baseline"),
        max_drop=0.0,
    )
    assert check["verdict"] == "inconclusive"
    pairs = problem_pairs(150, problems=check["samples_needed"], lost=18 / 400, gained=12 / 400)
    assert 0.65 < verdicts(pairs, resamples=1000, max_drop=0.0)["fail"] < 0.95
    assert samples_needed(0.0, 0.0, Interval(-0.1, 0.1), 100, 0.95) is None
    assert samples_needed(2.0, 1.0, Interval(-math.inf, 3.0), 100, 0.95) is None


# How often it is wrong


@pytest.mark.parametrize("gained", [0.0, 0.005, 0.02])
def test_three_points_lost_in_a_thousand_problems_are_caught(gained: float) -> None:
    found = verdicts(
        problem_pairs(200, lost=0.03 + gained, gained=gained), resamples=2000, max_drop=0.0
    )
    assert found["fail"] >= 0.95
    assert found["pass"] == 0


def test_where_no_test_catches_more_the_gate_comes_near_it() -> None:
    """If 3 % of the answers also improve, no test of this level can catch more than 94.1 %."""
    most = most_any_test_catches(0.06, 0.03)
    assert most == pytest.approx(0.941, abs=0.001)
    found = verdicts(problem_pairs(300, lost=0.06, gained=0.03), resamples=2000, max_drop=0.0)
    assert most - 0.03 <= found["fail"] <= most + 0.03
    assert most_any_test_catches(0.02, 0.02) == pytest.approx(0.05, abs=1e-6), (
        "where nothing is lost, the level"
    )


def exact_share(problems: int, lost: float, gained: float, limit: int) -> dict[str, float]:
    """The chance of each verdict under `max_drop: limit / problems`, summed over all outcomes."""
    share = dict.fromkeys(WORDS, 0.0)
    spread = [
        range(max(0, int(m - 4 * m**0.5 - 2)), int(m + 4 * m**0.5 + 4))
        for m in (problems * lost, problems * gained)
    ]
    for down in spread[0]:
        for up in spread[1]:
            chance = math.exp(
                math.lgamma(problems + 1)
                - math.lgamma(down + 1)
                - math.lgamma(up + 1)
                - math.lgamma(problems - down - up + 1)
                + down * math.log(lost)
                + up * math.log(gained)
                + (problems - down - up) * math.log(1 - lost - gained)
            )
            if chance > 1e-5:
                rows = np.repeat([[1.0], [-1.0], [0.0]], [down, up, problems - down - up], axis=0)
                found = bounds(resample(rows, 1000, seed=down * 100 + up)[:, 0], problems, 0.95)
                share[
                    "fail"
                    if found.low > limit
                    else "pass"
                    if found.high <= limit
                    else "inconclusive"
                ] += chance
    return share


@pytest.mark.parametrize(
    ("problems", "churn"), [(100, 0.02), (100, 0.08), (300, 0.01), (1000, 0.001), (1000, 0.004)]
)
def test_no_true_loss_fails_one_time_in_twenty_at_most(problems: int, churn: float) -> None:
    assert exact_share(problems, churn, churn, 0)["fail"] <= 0.05


def test_a_loss_exactly_at_its_limit_fails_one_time_in_twenty_at_most() -> None:
    assert exact_share(1000, 0.0105, 0.0005, 10)["fail"] <= 0.05


@pytest.mark.parametrize("windows", [16, 128])
def test_a_perplexity_exactly_at_its_limit_fails_one_time_in_twenty_and_a_worse_one_nearly_always(
    windows: int,
) -> None:
    at_limit = verdicts(window_pairs(400, windows, 1.06), TEXT, resamples=1000, max_ratio=1.06)
    assert at_limit["fail"] <= 0.05 + 2.6 * math.sqrt(0.05 * 0.95 / 400)
    assert (
        verdicts(window_pairs(60, windows, 1.15), TEXT, resamples=1000, max_ratio=1.06)["fail"]
        > 0.9
    )


def test_identical_answers_pass_and_more_right_ones_do_too() -> None:
    old = answered("1" * 95 + "0" * 5, "baseline")
    assert gate(answered("1" * 95 + "0" * 5), old, max_drop=0.0)["interval"] == (0.0, 0.0)
    for digits in ("1" * 95 + "0" * 5, "1" * 96 + "0" * 4, "1" * 100):
        for limit in ({"max_drop": 0.0}, {"min_ratio": 1.0}):
            assert gate(answered(digits), old, **limit)["verdict"] == "pass"
    assert gate(answered("1" * 94 + "0" * 6), old, max_drop=0.0)["verdict"] == "inconclusive", (
        "one lost of a hundred proves nothing"
    )
