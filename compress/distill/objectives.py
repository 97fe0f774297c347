"""The stages of distillation, as objectives for the trainer: hidden-state alignment, the logits, the data itself.

An objective owns the student, so that its parameters train; it only borrows the teacher, which must not appear among
its parameters. Projections belong to the objective: they never reach the student or its checkpoint.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...data.packing import IGNORE
from .losses import hidden_mse, logit_kl, next_token_loss

__all__ = ["HiddenAlignment", "LabelLearning", "LogitDistillation", "layer_pairs"]


def layer_pairs(student_layers: int, teacher_layers: int) -> list[tuple[int, int]]:
    """Which layer's output is aligned with which, evenly over the depth; the last with the last."""
    return [(i, round(i * teacher_layers / student_layers)) for i in range(1, student_layers + 1)]


class _Borrowed:
    """Holds a module without making it a submodule."""

    def __init__(self, module: Any) -> None:
        self.module = module


class HiddenAlignment(nn.Module):
    """Stage 1: mean squared error between paired hidden states, through a learnt projection where widths differ."""

    def __init__(self, student: Any, teacher: Any) -> None:
        super().__init__()
        self.student = student
        self._teacher = _Borrowed(teacher)
        s, t = student.config, teacher.config
        self.pairs = layer_pairs(s.num_hidden_layers, t.num_hidden_layers)
        same = s.hidden_size == t.hidden_size
        device = next(student.parameters()).device
        made = [nn.Identity() if same else nn.Linear(s.hidden_size, t.hidden_size, bias=False) for _ in self.pairs]
        self.projections = nn.ModuleList(made).to(device)

    def forward(self, ids: Tensor, labels: Tensor) -> Tensor:
        """Mean loss over the pairs for a batch [batch, seq]; every real position counts, prompts too."""
        with torch.no_grad():
            teacher = self._teacher.module(input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states
        student = self.student(input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states
        mask = torch.ones_like(labels, dtype=torch.bool)
        losses = [hidden_mse(p(student[i]), teacher[j], mask) for p, (i, j) in zip(self.projections, self.pairs, strict=True)]
        return torch.stack(losses).mean()


class LogitDistillation(nn.Module):
    """Stage 2: (1 - hard) * KL(teacher || student) + hard * cross-entropy with the data."""

    def __init__(self, student: Any, teacher: Any, temperature: float, hard: float, vocab: int) -> None:
        super().__init__()
        self.student = student
        self._teacher = _Borrowed(teacher)
        self.temperature, self.hard, self.vocab = temperature, hard, vocab

    def forward(self, ids: Tensor, labels: Tensor) -> Tensor:
        """Loss of a batch [batch, seq] over the scored positions; logits are cut to the shared vocabulary."""
        with torch.no_grad():
            teacher = self._teacher.module(input_ids=ids, use_cache=False).logits[..., : self.vocab]
        student = self.student(input_ids=ids, use_cache=False).logits
        scored = _scored(ids, labels)
        loss = logit_kl(student[..., : self.vocab], teacher, scored, self.temperature)
        if self.hard:
            loss = (1 - self.hard) * loss + self.hard * next_token_loss(student, scored)
        return loss


class LabelLearning(nn.Module):
    """Cross-entropy with the data; it needs no teacher."""

    def __init__(self, student: Any) -> None:
        super().__init__()
        self.student = student

    def forward(self, ids: Tensor, labels: Tensor) -> Tensor:
        """Loss of a batch [batch, seq] over the scored positions."""
        return next_token_loss(self.student(input_ids=ids, use_cache=False).logits, _scored(ids, labels))


def _scored(ids: Tensor, labels: Tensor) -> Tensor:
    """The labels; every token where a batch has none, so that it still has a loss."""
    return labels if bool((labels != IGNORE).any()) else ids
