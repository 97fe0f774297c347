"""The losses of the distillation stages as modules: hidden-state alignment, logits, labels.

An objective owns the student, so the student's parameters are trained. It only refers to the
teacher, which must not appear among its parameters. Projections belong to the objective and never
reach the student or its checkpoint.
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
from .teacher_logits import LOGITS_AT_ONCE, TeacherLogits, hidden_states, last_hidden, logits_of

__all__ = ["HiddenAlignment", "LabelLearning", "LogitDistillation", "Objective", "layer_pairs"]


def layer_pairs(student_layers: int, teacher_layers: int) -> list[tuple[int, int]]:
    """Pair student with teacher layers, spread evenly over the depth; the last with the last."""
    return [(i, round(i * teacher_layers / student_layers)) for i in range(1, student_layers + 1)]


class Objective(nn.Module):
    """Base of all objectives: the student, and what the trainer and accelerate ask for."""

    def __init__(self, student: Any) -> None:
        super().__init__()
        self.student = student
        self.frozen: Sequence[nn.Parameter] = ()
        """Parameters of the student that this stage does not train."""

    @property
    def _no_split_modules(self) -> list[str]:
        """Modules that accelerate must not split over processes."""
        return list(self.student._no_split_modules or ())

    @property
    def untrained(self) -> list[nn.Parameter]:
        """Parameters that get no gradient."""
        return list(self.frozen)

    def tie_weights(self) -> None:
        """Tie the student's weights; accelerate calls this."""
        self.student.tie_weights()

    def loss_count(self, ids: Tensor, labels: Tensor) -> int:
        """Return the number of values that a batch's loss is a mean over: its scored tokens."""
        return int((labels[:, 1:] != IGNORE).sum())


class HiddenAlignment(Objective):
    """Mean squared error between paired hidden states.

    Where the widths differ, a trained projection maps the student's to the teacher's.

    Args:
        student: the causal language model that is trained.
        teacher: the frozen one.
        pairs: layers of student and teacher to align, counted from 1 (0 is the embedding);
            default: see `layer_pairs`.
    """

    def __init__(
        self, student: Any, teacher: Any, pairs: Sequence[tuple[int, int]] | None = None
    ) -> None:
        super().__init__(student)
        self._teacher = (teacher,)  # in a tuple, so that it does not become a submodule
        s = student.config
        t = teacher.config
        self.pairs = list(pairs or layer_pairs(s.num_hidden_layers, t.num_hidden_layers))
        same = s.hidden_size == t.hidden_size
        device = next(student.parameters()).device
        made = [
            nn.Identity() if same else nn.Linear(s.hidden_size, t.hidden_size, bias=False)
            for _ in self.pairs
        ]
        self.projections = nn.ModuleList(made).to(device)

    def forward(self, ids: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss over the pairs for a batch [batch, seq]; prompts count too."""
        with torch.no_grad():
            teacher = hidden_states(self._teacher[0], ids)
        return self.alignment_loss(hidden_states(self.student, ids), teacher, labels)

    def alignment_loss(
        self, student: Sequence[Tensor], teacher: Sequence[Tensor], labels: Tensor
    ) -> Tensor:
        """Return the mean loss over the pairs, for hidden states that are already computed.

        Args:
            student: [batch, seq, width] of the embedding and of every layer.
            teacher: likewise.
            labels: [batch, seq].
        """
        mask = torch.ones_like(labels, dtype=torch.bool)
        pairs = zip(self.projections, self.pairs, strict=True)
        return torch.stack(
            [
                hidden_mse(p(student[i]), teacher[j], mask, mean_over_processes)
                for p, (i, j) in pairs
            ]
        ).mean()

    @property
    def untrained(self) -> list[nn.Parameter]:
        """The frozen parameters, and an untied head: this loss gives it no gradient."""
        head = (
            []
            if self.student.config.tie_word_embeddings
            else self.student.get_output_embeddings().parameters()
        )
        return [*self.frozen, *head]

    def loss_count(self, ids: Tensor, labels: Tensor) -> int:
        """Return the number of positions; prompts count too."""
        return ids.numel()


def mean_over_processes(value: Tensor) -> Tensor:
    """Average a value without gradient over all processes, which have equal shares of a batch."""
    if distributed.is_available() and distributed.is_initialized():
        value = value.clone()
        distributed.all_reduce(value)
        value /= distributed.get_world_size()
    return value


class LogitDistillation(Objective):
    """(1 - hard) * divergence from the teacher + hard * cross-entropy with the data.

    Args:
        student: the causal language model that is trained.
        teacher: gives the teacher's log-probabilities, from a model or a cache.
        temperature: softens both distributions; the divergence is multiplied by its square
            (Hinton et al. 2015, section 2).
        hard: weight of the cross-entropy.
        vocab: number of logits that both models have.
        kind: of the divergence.
    """

    def __init__(
        self,
        student: Any,
        teacher: TeacherLogits,
        temperature: float,
        hard: float,
        vocab: int,
        kind: Divergence = "forward",
    ) -> None:
        super().__init__(student)
        self.teacher = teacher
        self.temperature = temperature
        self.hard = hard
        self.vocab = vocab
        self.kind: Divergence = kind

    def forward(self, ids: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of a batch [batch, seq], mean over the scored positions."""
        labels = scored_labels(ids, labels)
        scored = labels[:, 1:] != IGNORE
        log_probs = self.teacher.of(ids, labels, scored)
        hidden = last_hidden(self.student, ids)[:, :-1][scored]
        following = labels[:, 1:][scored]

        def part(at: slice) -> Tensor:
            logits = logits_of(self.student, hidden[at])
            log_p, log_q = log_probs(at, logits[..., : self.vocab], self.temperature)
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
        """Return the loss of a batch [batch, seq], mean over the scored positions."""
        labels = scored_labels(ids, labels)
        scored = labels[:, 1:] != IGNORE
        hidden = last_hidden(self.student, ids)[:, :-1][scored]
        following = labels[:, 1:][scored]

        def part(at: slice) -> Tensor:
            return F.cross_entropy(
                logits_of(self.student, hidden[at]).float(), following[at], reduction="sum"
            )

        return in_chunks(
            len(hidden), LOGITS_AT_ONCE // self.student.config.vocab_size + 1, part
        ) / max(len(hidden), 1)
