"""The stages of distillation, as objectives for the trainer: hidden-state alignment, the logits, the data itself.

An objective owns the student, so that its parameters train; it only borrows the teacher, which must not appear among
its parameters. Projections belong to the objective: they never reach the student or its checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from ...data.packing import IGNORE
from .losses import divergence, hidden_mse, in_chunks, scored_labels
from .stage_options import Divergence
from .teacher_logits import Targets, hidden_states, last_hidden, logits_of

__all__ = ["HiddenAlignment", "LabelLearning", "LogitDistillation", "Objective", "layer_pairs"]

LOGITS_AT_ONCE = 2**24
"""Logits of a chunk of tokens: 110 tokens of a vocabulary of 152k; the losses need several float32 copies of them."""


def layer_pairs(student_layers: int, teacher_layers: int) -> list[tuple[int, int]]:
    """Which layer's output is aligned with which, evenly over the depth; the last with the last."""
    return [(i, round(i * teacher_layers / student_layers)) for i in range(1, student_layers + 1)]


class Objective(nn.Module):
    """What all of them have: the student, what its loss is a mean over, and what accelerate asks of a model that it shards."""

    def __init__(self, student: Any) -> None:
        super().__init__()
        self.student = student
        self.frozen: Sequence[nn.Parameter] = ()
        """Parameters of the student that are to stay as they are."""

    @property
    def _no_split_modules(self) -> list[str]:
        return list(self.student._no_split_modules or ())

    @property
    def idle(self) -> list[nn.Parameter]:
        """Parameters that do not learn."""
        return list(self.frozen)

    def tie_weights(self) -> None:
        """Tie the student's."""
        self.student.tie_weights()

    def counted(self, ids: Tensor, labels: Tensor) -> int:
        """How many things the loss of a batch [batch, seq] is a mean over: scored tokens."""
        return int((labels[:, 1:] != IGNORE).sum())


class HiddenAlignment(Objective):
    """Stage 1: mean squared error between paired hidden states, through a learnt projection where widths differ.

    Args:
        student: the causal language model that learns.
        teacher: the frozen one.
        pairs: layers of student and teacher whose outputs are aligned, from 1 on (0 is the embedding); default: see `layer_pairs`.
    """

    def __init__(
        self, student: Any, teacher: Any, pairs: Sequence[tuple[int, int]] | None = None
    ) -> None:
        super().__init__(student)
        self._teacher = (teacher,)  # held without becoming a submodule
        s, t = student.config, teacher.config
        self.pairs = list(pairs or layer_pairs(s.num_hidden_layers, t.num_hidden_layers))
        same = s.hidden_size == t.hidden_size
        device = next(student.parameters()).device
        made = [
            nn.Identity() if same else nn.Linear(s.hidden_size, t.hidden_size, bias=False)
            for _ in self.pairs
        ]
        self.projections = nn.ModuleList(made).to(device)

    def forward(self, ids: Tensor, labels: Tensor) -> Tensor:
        """Mean loss over the pairs for a batch [batch, seq]; every real position counts, prompts too."""
        with torch.no_grad():
            teacher = hidden_states(self._teacher[0], ids)
        return self.aligned(hidden_states(self.student, ids), teacher, labels)

    def aligned(
        self, student: Sequence[Tensor], teacher: Sequence[Tensor], labels: Tensor
    ) -> Tensor:
        """The same from hidden states [batch, seq, width] of the embedding and of every layer of both."""
        pairs, mask = (
            zip(self.projections, self.pairs, strict=True),
            torch.ones_like(labels, dtype=torch.bool),
        )
        return torch.stack(
            [hidden_mse(p(student[i]), teacher[j], mask, over_processes) for p, (i, j) in pairs]
        ).mean()

    @property
    def idle(self) -> list[nn.Parameter]:
        """The head's too, unless it is the embedding: no gradient reaches it."""
        head = (
            []
            if self.student.config.tie_word_embeddings
            else self.student.get_output_embeddings().parameters()
        )
        return [*self.frozen, *head]

    def counted(self, ids: Tensor, labels: Tensor) -> int:
        """Positions: prompts count too."""
        return ids.numel()


def over_processes(value: Tensor) -> Tensor:
    """The mean of a value that needs no gradient over all processes of a training, which have equal shares of its batch."""
    if distributed.is_available() and distributed.is_initialized():
        value = value.clone()
        distributed.all_reduce(value)
        value /= distributed.get_world_size()
    return value


class LogitDistillation(Objective):
    """Stage 2: (1 - hard) * divergence from the teacher + hard * cross-entropy with the data.

    Args:
        student: the causal language model that learns.
        teacher: what is aimed at: a model, or what is kept of its logits.
        temperature: softens both distributions; the divergence is multiplied by its square (Hinton et al. 2015, section 2).
        hard: share of cross-entropy.
        vocab: logits are cut to so many, which both have.
        kind: of the divergence.
    """

    def __init__(
        self,
        student: Any,
        teacher: Targets,
        temperature: float,
        hard: float,
        vocab: int,
        kind: Divergence = "forward",
    ) -> None:
        super().__init__(student)
        self.targets = teacher
        self.temperature, self.hard, self.vocab = temperature, hard, vocab
        self.kind: Divergence = kind

    def forward(self, ids: Tensor, labels: Tensor) -> Tensor:
        """Loss of a batch [batch, seq], mean over the scored positions."""
        labels = scored_labels(ids, labels)
        scored = labels[:, 1:] != IGNORE
        target, hidden = (
            self.targets.of(ids, labels, scored),
            last_hidden(self.student, ids)[:, :-1][scored],
        )
        following = labels[:, 1:][scored]

        def part(at: slice) -> Tensor:
            logits = logits_of(self.student, hidden[at])
            log_p, log_q = target(at, logits[..., : self.vocab], self.temperature)
            loss = divergence(log_p, log_q, self.kind) * self.temperature**2
            if self.hard:
                loss = (1 - self.hard) * loss + self.hard * F.cross_entropy(
                    logits.float(), following[at], reduction="sum"
                )
            return loss

        return in_chunks(len(hidden), LOGITS_AT_ONCE // self.vocab + 1, part) / max(len(hidden), 1)


class LabelLearning(Objective):
    """Cross-entropy with the data; it needs no teacher."""

    def forward(self, ids: Tensor, labels: Tensor) -> Tensor:
        """Loss of a batch [batch, seq], mean over the scored positions."""
        labels = scored_labels(ids, labels)
        scored = labels[:, 1:] != IGNORE
        hidden, following = last_hidden(self.student, ids)[:, :-1][scored], labels[:, 1:][scored]

        def part(at: slice) -> Tensor:
            return F.cross_entropy(
                logits_of(self.student, hidden[at]).float(), following[at], reduction="sum"
            )

        return in_chunks(
            len(hidden), LOGITS_AT_ONCE // self.student.config.vocab_size + 1, part
        ) / max(len(hidden), 1)
