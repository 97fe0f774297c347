"""Top-1 agreement at few positions: chance is no reason to refuse an artifact, and faults are."""

from __future__ import annotations

from fractions import Fraction
from math import comb

import pytest

from edgewright.export.onnx.parity import CHANCE, is_below


@pytest.mark.parametrize("count", [1, 11, 88, 300])
@pytest.mark.parametrize("limit", ["0.75", "0.85", "0.97", "0.995"])
def test_a_share_is_below_where_the_binomial_distribution_says_so(count: int, limit: str) -> None:
    hit = Fraction(limit)
    chance = Fraction(1)  # of at least so many misses
    for misses in range(count + 1):
        assert is_below(1 - misses / count, count, float(limit)) == (chance < CHANCE)
        chance -= comb(count, misses) * (1 - hit) ** misses * hit ** (count - misses)


def test_many_positions_are_counted_without_overflow() -> None:
    assert not is_below(0.849, 20_000, 0.85)
    assert is_below(0.84, 20_000, 0.85)


def test_an_exact_precision_may_miss_nothing() -> None:
    assert not is_below(1.0, 11, 1.0)
    assert is_below(10 / 11, 11, 1.0)


def test_two_misses_of_eleven_are_chance_and_most_of_them_are_not() -> None:
    """The prefill of Qwen2.5-Coder 1.5B in `int4-a8` with the last logits only, and a fault."""
    assert not is_below(9 / 11, 11, 0.85)
    assert is_below(4 / 11, 11, 0.85)
