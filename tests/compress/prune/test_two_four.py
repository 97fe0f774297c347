"""2:4 sparsity of one weight: the pattern, and SparseGPT against its definition and baseline."""

from __future__ import annotations

import pytest
import torch
from prune_helpers import counted
from torch import Tensor

from edgewright.compress.calibration.hessian import output_error
from edgewright.compress.prune import two_four as sparsity
from edgewright.compress.prune.two_four import is_two_four, magnitude, sparsegpt, two_four_mask


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def correlated(width: int, tokens: int = 512) -> Tensor:
    """A Hessian of correlated inputs, as a language model has."""
    x = random(tokens, width // 4, seed=1) @ random(width // 4, width, seed=2) + 0.3 * random(
        tokens, width, seed=3
    )
    return x.T @ x


def test_mask_keeps_the_two_best_of_four() -> None:
    scores = torch.tensor([[1.0, 4, 3, 2, 9, 9.5, 0, 8], [0, 0, 0, 0, -1, -2, -3, -4]])
    mask = two_four_mask(scores)
    assert mask[0].tolist() == [False, True, True, False, True, True, False, False]
    assert mask[1, 4:].tolist() == [True, True, False, False]
    assert mask.view(2, 2, 4).sum(-1).tolist() == [[2, 2], [2, 2]]


@pytest.mark.parametrize(
    ("row", "sparse"),
    [
        ([0, 0, 1, 1], True),
        ([0, 0, 0, 1], True),
        ([0] * 4, True),
        ([0, 1, 1, 1], False),
        ([1, 1, 0, 0, 0, 1, 1, 1], False),
        ([1, 0], False),
    ],
)
def test_pattern(row: list[int], sparse: bool) -> None:
    assert is_two_four(torch.tensor([row], dtype=torch.float32)) == sparse


def test_two_of_a_column_do_not_count() -> None:
    assert not is_two_four(torch.tensor([[1.0] * 4, [0.0] * 4, [1.0] * 4, [0.0] * 4]))


def test_uncorrelated_inputs_make_it_magnitude() -> None:
    weight = random(12, 64)
    sparse, damp = sparsegpt(weight, torch.eye(64))
    torch.testing.assert_close(sparse, magnitude(weight))
    assert damp == 0.01


def by_the_book(weight: Tensor, hessian: Tensor) -> Tensor:
    """The optimal brain surgeon by columns, with the inverse Hessian updated by elimination."""
    weight = weight.double().clone()
    damped = hessian.double() + 0.01 * hessian.diagonal().mean() * torch.eye(len(hessian))
    inverse = torch.linalg.inv(damped)
    mask = torch.ones_like(weight, dtype=torch.bool)
    for c in range(weight.shape[1]):
        if c % 4 == 0:
            ahead, costs = inverse.clone(), []
            for j in range(c, c + 4):
                costs.append(weight[:, j] ** 2 / ahead[j, j])
                ahead = ahead - torch.outer(ahead[:, j], ahead[j]) / ahead[j, j]
            order = torch.stack(costs, 1).argsort(1, descending=True)
            mask[:, c : c + 4] = False
            mask[:, c : c + 4].scatter_(1, order[:, :2], value=True)
        gone = torch.where(mask[:, c], 0.0, weight[:, c])
        weight[:, c:] -= torch.outer(gone / inverse[c, c], inverse[c, c:])
        inverse = inverse - torch.outer(inverse[:, c], inverse[c]) / inverse[c, c]
    return (weight * mask).float()


@pytest.mark.parametrize("block", [4, 16, 128])
def test_sparsegpt_is_the_brain_surgeon_column_by_column(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sparsity, "BLOCK", block)
    weight, hessian = random(10, 48), correlated(48)
    sparse, _ = sparsegpt(weight, hessian)
    torch.testing.assert_close(sparse, by_the_book(weight, hessian), rtol=1e-3, atol=1e-4)
    assert is_two_four(sparse)


@pytest.mark.parametrize("width", [64, 260])
def test_sparsegpt_beats_magnitude(width: int) -> None:
    weight, hessian = random(32, width), correlated(width)
    sparse, _ = sparsegpt(weight, hessian)
    assert output_error(weight, sparse, hessian) < 0.6 * output_error(
        weight, magnitude(weight), hessian
    )
    assert (counted(sparse) == 2).all()


def test_inputs_never_seen_do_no_harm() -> None:
    weight, hessian = random(8, 32), correlated(32)
    hessian[5], hessian[:, 5] = 0, 0
    sparse, _ = sparsegpt(weight, hessian)
    assert torch.isfinite(sparse).all()
    assert bool(((sparse[:, 5] == 0) | (sparse[:, 5] == weight[:, 5])).all())
    assert torch.equal(sparsegpt(weight, torch.zeros(32, 32))[0], magnitude(weight))
    assert sparsegpt(weight, torch.full((32, 32), float("nan")))[1] is None


# The step
