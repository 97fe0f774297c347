"""How many experts stay, and which shares are refused."""

from __future__ import annotations

import pytest

from edgewright.compress.prune.counts import kept_experts
from edgewright.errors import Refused, UsageError
from edgewright.models import ExpertsFFN


def mixture(count: int, top: int) -> ExpertsFFN:
    return ExpertsFFN(
        "mlp",
        "mlp",
        ("gate_proj", "up_proj", "down_proj"),
        hidden_size=128,
        size=64,
        count=count,
        per_token=top,
        renormalize=True,
        activation="silu",
    )


@pytest.mark.parametrize(
    ("count", "top", "ratio", "kept"),
    [
        (8, 2, 0.0, 8),
        (8, 2, 0.25, 6),
        (8, 2, 0.75, 2),
        (128, 8, 0.5, 64),
        (60, 4, 0.1, 54),
        (8, 2, 0.3, 6),
        (8, 2, 0.1875, 7),
        (8, 2, 0.07, 7),
    ],
)
def test_kept_experts(count: int, top: int, ratio: float, kept: int) -> None:
    assert kept_experts(mixture(count, top), ratio) == kept


@pytest.mark.parametrize(
    ("count", "top", "ratio", "words", "hint"),
    [
        (8, 2, 0.06, "less than one", "--experts 0.125"),
        (60, 4, 0.001, "less than one", "--experts 0.01667"),
        (8, 2, 0.9, "1 of 8 experts would stay, and a token goes to 2", "--experts 0.75"),
        (12, 4, 0.75, "3 of 12 experts would stay, and a token goes to 4", "--experts 0.6667"),
        (4, 4, 0.25, "none can be removed", "heads or layers"),
    ],
)
def test_shares_that_cannot_be(count: int, top: int, ratio: float, words: str, hint: str) -> None:
    with pytest.raises(Refused, match=words) as caught:
        kept_experts(mixture(count, top), ratio)
    assert hint in caught.value.hint
    if "--experts" in hint:  # what is named is legal, and does something
        assert kept_experts(mixture(count, top), float(hint.split()[1])) in (count - 1, top)


@pytest.mark.parametrize("ratio", [-0.1, 1.0, float("nan")])
def test_shares_outside_the_range(ratio: float) -> None:
    with pytest.raises(UsageError, match="not a share"):
        kept_experts(mixture(8, 2), ratio)
