"""The losses and objectives of distillation: values, pairs of layers, and the borrowed teacher."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from edgewright.checkpoints.loading import load_model
from edgewright.compress.distill.losses import hidden_mse, next_token_loss
from edgewright.compress.distill.objectives import HiddenAlignment, LogitDistillation, layer_pairs
from edgewright.compress.distill.teacher_logits import OnlineTeacher

MakeModel = Callable[..., Path]
SMALL = {"num_hidden_layers": 2, "intermediate_size": 256}


def random_logits(seed: int, width: int = 20) -> Tensor:
    return torch.randn(3, 11, width, generator=torch.Generator().manual_seed(seed)) * 3


def some_labels() -> Tensor:
    labels = torch.randint(0, 20, (3, 11), generator=torch.Generator().manual_seed(9))
    labels[0, :6], labels[2, 1:] = -100, -100
    return labels


# The losses


def test_hidden_mse() -> None:
    teacher = random_logits(0, 6)
    mask = torch.ones(3, 11, dtype=torch.bool)
    mask[1] = False
    assert float(hidden_mse(teacher.clone(), teacher, mask)) == 0
    assert float(hidden_mse(torch.zeros_like(teacher), teacher, mask)) == pytest.approx(1)
    assert float(hidden_mse(teacher * 1.5, teacher, mask)) == pytest.approx(0.25)
    torch.testing.assert_close(
        hidden_mse(1e3 * random_logits(1, 6), 1e3 * teacher, mask),
        hidden_mse(random_logits(1, 6), teacher, mask),
    )
    other = teacher.clone()
    other[1] += 100
    assert float(hidden_mse(other, teacher, mask)) == 0


def test_next_token_loss_is_shifted() -> None:
    logits = random_logits(0)
    labels = some_labels()
    parts = [
        -logits[b, i].log_softmax(-1)[labels[b, i + 1]]
        for b in range(3)
        for i in range(10)
        if labels[b, i + 1] != -100
    ]
    torch.testing.assert_close(next_token_loss(logits, labels), torch.stack(parts).mean())


@pytest.mark.parametrize(
    ("student", "teacher", "pairs"),
    [
        (4, 4, [(1, 1), (2, 2), (3, 3), (4, 4)]),
        (2, 4, [(1, 2), (2, 4)]),
        (3, 6, [(1, 2), (2, 4), (3, 6)]),
        (1, 5, [(1, 5)]),
        (3, 4, [(1, 1), (2, 3), (3, 4)]),
        (4, 2, [(1, 0), (2, 1), (3, 2), (4, 2)]),
    ],
)
def test_layer_pairs(student: int, teacher: int, pairs: list[tuple[int, int]]) -> None:
    assert layer_pairs(student, teacher) == pairs


# Objectives

IDS = torch.arange(24).view(2, 12) * 5 % 512


def test_projections_only_where_widths_differ_and_never_in_the_student(
    make_model: MakeModel,
) -> None:
    teacher = load_model(make_model("qwen2"))
    for hidden, kind in ((128, nn.Identity), (256, nn.Linear)):
        student = load_model(make_model("qwen2", seed=1, hidden_size=hidden, **SMALL))
        names = set(student.state_dict())
        objective = HiddenAlignment(student, teacher)
        assert [type(p) for p in objective.projections] == [kind] * 2
        assert set(student.state_dict()) == names
        borrowed = {id(p) for p in teacher.parameters()}
        assert not borrowed & {id(p) for p in objective.parameters()}
        objective(IDS, IDS).backward()
        assert any(p.grad is not None for p in student.parameters())
        assert all(p.weight.grad is not None for p in objective.projections if kind is nn.Linear)


def test_objectives_vanish_for_the_teacher_itself(make_model: MakeModel) -> None:
    teacher, twin = load_model(make_model("llama")), load_model(make_model("llama"))
    with torch.no_grad():
        assert float(HiddenAlignment(twin, teacher)(IDS, IDS)) == pytest.approx(0, abs=1e-9)
        assert float(
            LogitDistillation(twin, OnlineTeacher(teacher, 512), 2.0, 0.0, 512)(IDS, IDS)
        ) == pytest.approx(0, abs=1e-6)


def test_hard_share_mixes_in_the_data(make_model: MakeModel) -> None:
    teacher, student = load_model(make_model("llama")), load_model(make_model("llama", seed=1))
    with torch.no_grad():
        soft, both, hard = (
            float(
                LogitDistillation(student, OnlineTeacher(teacher, 512), 1.0, share, 512)(IDS, IDS)
            )
            for share in (0.0, 0.25, 1.0)
        )
        assert hard == pytest.approx(float(next_token_loss(student(IDS).logits, IDS)), rel=1e-5)
    assert both == pytest.approx(0.75 * soft + 0.25 * hard, rel=1e-5)
    assert soft != pytest.approx(hard, rel=0.01)
