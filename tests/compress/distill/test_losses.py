"""The losses on logits: chunked and whole are equal, and no tensor has the size of all logits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from by_hand import logit_kl
from conftest import DENSE
from torch import Tensor
from torch.nn import functional as F

import edgewright.compress.distill.objectives as objectives
from edgewright.checkpoints.loading import load_model
from edgewright.compress.distill.losses import divergence, in_chunks, next_token_loss
from edgewright.compress.distill.objectives import LabelLearning, LogitDistillation
from edgewright.compress.distill.teacher_logits import OnlineTeacher, last_hidden, logits_of

MakeModel = Callable[..., Path]
IDS = torch.arange(24).view(2, 12) * 5 % 512
LABELS = torch.where(torch.tensor([[0] * 5 + [1] * 7, [1] * 9 + [0] * 3]).bool(), IDS, -100)


def log_probabilities(seed: int, width: int = 20) -> Tensor:
    return (torch.randn(7, width, generator=torch.Generator().manual_seed(seed)) * 3).log_softmax(
        -1
    )


def test_divergences_by_hand() -> None:
    p, q = log_probabilities(0), log_probabilities(1)
    middle = ((p.exp() + q.exp()) / 2).log()

    def kl(a: Tensor, b: Tensor) -> Tensor:
        return (a.exp() * (a - b)).sum()

    torch.testing.assert_close(divergence(p, q), kl(p, q))
    torch.testing.assert_close(divergence(p, q, "reverse"), kl(q, p))
    torch.testing.assert_close(divergence(p, q, "js"), (kl(p, middle) + kl(q, middle)) / 2)
    assert float(divergence(p, q, "js")) < 7 * 0.6932  # at most log 2 a token
    assert (
        len({round(float(divergence(p, q, kind)), 3) for kind in ("forward", "reverse", "js")}) == 3
    )


@pytest.mark.parametrize("kind", ["forward", "reverse", "js"])
def test_a_divergence_is_least_at_equality(kind: Any) -> None:
    p = log_probabilities(0)
    logits = p.clone().requires_grad_()
    loss = divergence(p, logits.log_softmax(-1), kind)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0, abs=1e-5)
    assert logits.grad is not None
    assert float(logits.grad.abs().max()) < 1e-5
    assert float(divergence(p, log_probabilities(1), kind)) > 0.5


@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_a_sum_in_chunks_is_the_sum(size: int) -> None:
    x = torch.randn(7, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    whole = x.exp().sum()
    (expected,) = torch.autograd.grad(whole, x)
    chunked = in_chunks(7, size, lambda at: x[at].exp().sum())
    (found,) = torch.autograd.grad(chunked, x)
    torch.testing.assert_close(chunked, whole)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("family", [*DENSE, "qwen3_moe"])
def test_the_head_on_its_own_gives_the_models_logits(family: str, make_model: MakeModel) -> None:
    capped = {"final_logit_softcapping": 5.0} if family == "gemma3_text" else {}
    model = load_model(make_model(family, **capped))
    with torch.no_grad():
        torch.testing.assert_close(
            logits_of(model, last_hidden(model, IDS)), model(IDS).logits, rtol=0, atol=1e-6
        )


@pytest.mark.parametrize("hard", [0.0, 0.3])
@pytest.mark.parametrize("kind", ["forward", "reverse", "js"])
def test_chunked_is_unchunked(
    kind: Any, hard: float, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compare loss and gradients to 1e-5; forward KL also with that of whole logits."""
    teacher = load_model(make_model("qwen2"))
    found = []
    for at_once in (2**24, 3 * 512):
        monkeypatch.setattr(objectives, "LOGITS_AT_ONCE", at_once)
        student = load_model(make_model("qwen2", seed=1))
        loss = LogitDistillation(student, OnlineTeacher(teacher, 512), 2.0, hard, 512, kind)(
            IDS, LABELS
        )
        loss.backward()
        found.append((loss.detach(), {name: p.grad for name, p in student.named_parameters()}))
    (whole, expected), (chunked, gradients) = found
    torch.testing.assert_close(chunked, whole, rtol=1e-5, atol=1e-6)
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-5)
    if kind == "forward":
        with torch.no_grad():
            logits = student(IDS).logits
            by_hand = (1 - hard) * logit_kl(
                logits, teacher(IDS).logits, LABELS, 2.0
            ) + hard * next_token_loss(logits, LABELS)
        torch.testing.assert_close(whole, by_hand, rtol=1e-5, atol=1e-6)


def test_labels_in_chunks(make_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    student = load_model(make_model("llama"))
    expected = next_token_loss(student(IDS).logits, LABELS)
    torch.testing.assert_close(LabelLearning(student)(IDS, LABELS), expected, rtol=1e-5, atol=1e-6)
    monkeypatch.setattr(objectives, "LOGITS_AT_ONCE", 4 * 512)
    torch.testing.assert_close(LabelLearning(student)(IDS, LABELS), expected, rtol=1e-5, atol=1e-6)


def test_nothing_of_the_vocabularys_size_is_kept() -> None:
    """Autograd keeps the hidden states for the backward pass, and no logits."""
    hidden, head = torch.randn(64, 8).requires_grad_(), torch.randn(4096, 8).requires_grad_()
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    def part(at: slice) -> Tensor:
        return F.cross_entropy(
            hidden[at] @ head.t(), torch.zeros(len(hidden[at]), dtype=torch.int64), reduction="sum"
        )

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        in_chunks(64, 4, part).backward()
    assert max(kept, default=0) < 4 * 4096
    kept.clear()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        in_chunks(64, 64, part).backward()
    assert max(kept) == 64 * 4096
