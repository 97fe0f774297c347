"""The divergence from most likely tokens is never more than the true one, and near it."""

from __future__ import annotations

import numpy as np
import pytest

from edgewright.targets.acceptance.agreement import agreement, least_kl, same_beginning
from edgewright.targets.runtimes.interface import Scored

VOCABULARY = 400


def log_softmax(values: np.ndarray) -> np.ndarray:
    shifted = values - values.max()
    return shifted - np.log(np.exp(shifted).sum())


def most_likely(logs: np.ndarray, top: int) -> dict[int, float]:
    return {int(token): float(logs[token]) for token in np.argsort(-logs)[:top]}


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.5, 3.0])
@pytest.mark.parametrize("top", [1, 8, 64, VOCABULARY])
def test_it_is_a_lower_bound(noise: float, top: int) -> None:
    generator = np.random.default_rng(3)
    for _ in range(20):
        logits = 3 * generator.standard_normal(VOCABULARY)
        p = log_softmax(logits)
        q = log_softmax(logits + noise * generator.standard_normal(VOCABULARY))
        true = float((np.exp(p) * (p - q)).sum())
        found = least_kl(most_likely(p, top), most_likely(q, top))
        assert 0 <= found <= true + 1e-9
        if top == VOCABULARY:
            assert found == pytest.approx(true, abs=1e-6)
        if top == 64:
            assert found >= 0.5 * true


def test_answers_of_another_model_are_far_away() -> None:
    generator = np.random.default_rng(4)
    p, q = (log_softmax(6 * generator.standard_normal(VOCABULARY)) for _ in range(2))
    assert least_kl(most_likely(p, 64), most_likely(q, 64)) > 1
    assert least_kl(most_likely(p, 64), {}) == pytest.approx(0, abs=1e-9)


def test_positions_are_compared_one_by_one() -> None:
    expected = Scored([[1, 2], [3, 4]], [[-0.1, -2.4], [-0.2, -1.8]])
    found = Scored([[1, 2], [4, 3]], [[-0.1, -2.4], [-0.2, -1.8]])
    result = agreement(expected, found)
    assert result.hits == (True, False)
    assert result.kl[0] == pytest.approx(0, abs=1e-9)
    assert result.kl[1] > 0.5
    with pytest.raises(ValueError, match="shorter"):
        agreement(expected, Scored([[1, 2]], [[-0.1, -2.4]]))


def test_the_beginning() -> None:
    assert same_beginning([1, 2, 3], [1, 2, 3]) == 3
    assert same_beginning([1, 2, 3], [1, 2]) == 2
    assert same_beginning([1, 2, 3], [1, 9, 3]) == 1
    assert same_beginning([], [1]) == 0
