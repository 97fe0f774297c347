"""On-policy distillation (GKD, Agarwal et al. 2023, section 3.1): the teacher judges student text.

Of some rows only the beginning comes from the data. The student continues them, sampled at
temperature 1, and the divergence is taken on the tokens that it wrote. As in the paper, no gradient
goes through the sampling.

Each row has its own random numbers, by its position in the stage. So the text does not depend on
the number of processes, on how batches are split, or on interruptions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import parametrize

from ...data.draws import uniforms
from ...data.packing import IGNORE
from .objectives import LogitDistillation
from .stage_options import Divergence
from .teacher_logits import TeacherLogits, logits_of

__all__ = [
    "Continuation",
    "OnPolicyDistillation",
    "continuation_starts",
    "continue_rows",
    "is_continued",
]


@dataclass(frozen=True)
class Continuation:
    """Which rows of a stage the student continues, and how."""

    share: float
    """Share of the rows, in (0, 1]."""
    seed: int
    stage: int
    """The stage's number; seed, stage and row together determine the random numbers."""
    end_tokens: Sequence[int]
    """Tokens that end a continuation."""


def is_continued(row: int, share: float) -> bool:
    """Whether the student continues this row; such rows are spread evenly over the processes."""
    return int((row + 1) * share) > int(row * share)


def continuation_starts(labels: Tensor) -> Tensor:
    """Choose where the student starts to write in each row, int64 [rows].

    It is the start of a completion in the middle half of the row, so that the student answers a
    whole question; the one nearest to the middle. Without one (plain text) it is the middle.

    Args:
        labels: int64 [rows, seq], `IGNORE` in prompts.
    """
    middle = labels.shape[1] // 2
    starts = (labels[:, 1:] != IGNORE) & (labels[:, :-1] == IGNORE)
    distance = (torch.arange(1, labels.shape[1], device=labels.device) - middle).abs()
    nearest = torch.where(starts & (distance <= middle // 2), distance, labels.shape[1]).min(1)
    return torch.where(nearest.values < labels.shape[1], nearest.indices + 1, middle)


@torch.no_grad()
def continue_rows(
    student: Any,
    ids: Tensor,
    starts: Tensor,
    uniform: Tensor,
    vocab: int,
    end_tokens: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """Let a student write rows to their ends, in one batch with a key/value cache.

    Args:
        student: the causal language model, in evaluation mode.
        ids: int64 [rows, seq]; the beginnings are kept.
        starts: int64 [rows], the first position to write, at least 1.
        uniform: [rows, seq] in [0, 1), position of each draw in the cumulative distribution.
        vocab: only the first `vocab` tokens are written: those that the teacher has too.
        end_tokens: tokens after which a row is not continued.

    Returns:
        ids int64 [rows, seq], and labels that are `IGNORE` except for written tokens. After an end
        token the given ids remain.
    """
    from transformers import DynamicCache  # late: slow to import

    ids = ids.clone()
    labels = torch.full_like(ids, IGNORE)
    cache = DynamicCache(config=student.config)
    last = torch.tensor(end_tokens, device=ids.device)
    unfinished = torch.ones_like(starts, dtype=torch.bool)
    first = int(starts.min())
    step = ids[:, :first]
    for at in range(first, ids.shape[1]):
        hidden = student.get_decoder()(
            input_ids=step, past_key_values=cache, use_cache=True
        ).last_hidden_state[:, -1]
        sampled = _sample(logits_of(student, hidden)[:, :vocab], uniform[:, at])
        written = unfinished & (starts <= at)
        ids[:, at] = torch.where(written, sampled, ids[:, at])
        labels[:, at] = torch.where(written, sampled, IGNORE)
        unfinished &= ~(written & torch.isin(sampled, last))
        if not unfinished.any():
            break
        step = ids[:, at : at + 1]
    return ids, labels


def _sample(logits: Tensor, uniform: Tensor) -> Tensor:
    """Sample one token per row of logits [rows, vocab] by inverting the cumulative distribution."""
    reached = logits.float().softmax(-1).double().cumsum(-1)
    return torch.searchsorted(reached, uniform.double().unsqueeze(1) * reached[:, -1:], right=True)[
        :, 0
    ]


class OnPolicyDistillation(LogitDistillation):
    """A divergence from the teacher, on rows of the data and rows that the student continued.

    The rows are continued before each step.

    Args:
        student: the causal language model that is trained.
        teacher: must be able to judge any row, so it cannot be a cache.
        temperature: of the divergence; rows are sampled at 1.
        vocab: see `LogitDistillation`.
        kind: of the divergence.
        continuation: which rows, and how.
    """

    def __init__(
        self,
        student: Any,
        teacher: TeacherLogits,
        temperature: float,
        vocab: int,
        kind: Divergence,
        continuation: Continuation,
    ) -> None:
        super().__init__(student, teacher, temperature, 0.0, vocab, kind)
        self.continuation = continuation

    def replace_rows(self, ids: Tensor, labels: Tensor, rows: range) -> tuple[Tensor, Tensor]:
        """Return ids and labels [batch, seq] with some rows continued by the student.

        Args:
            ids: int64 [batch, seq].
            labels: likewise.
            rows: the numbers of the rows, counted from the first of the stage.
        """
        chosen = [at for at, row in enumerate(rows) if is_continued(row, self.continuation.share)]
        if not chosen:
            return ids, labels
        names = [(self.continuation.stage, rows[at]) for at in chosen]
        uniform = uniforms(self.continuation.seed, names, ids.shape[1]).to(ids.device)
        training = self.student.training
        self.student.eval()  # in training mode, recomputed layers would keep no cache
        with parametrize.cached():  # round fake-quantized weights once, not once per token
            written = continue_rows(
                self.student,
                ids[chosen],
                continuation_starts(labels[chosen]),
                uniform,
                self.vocab,
                self.continuation.end_tokens,
            )
        self.student.train(training)
        ids = ids.clone()
        labels = labels.clone()
        ids[chosen], labels[chosen] = written
        return ids, labels
