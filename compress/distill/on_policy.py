"""On-policy distillation (GKD: Agarwal et al. 2023, section 3.1): the teacher judges what the student itself writes.

Of some rows only the beginning is taken from the data; the student goes on, sampled at temperature 1, and the divergence is that of the
tokens it wrote. As in the paper no gradient goes through the sampling. Random numbers belong to a row, counted from the first of its
stage on, so that what is written depends neither on the number of processes or parts nor on when a run was interrupted.
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
from .teacher_logits import Targets, logits_of

__all__ = ["OnPolicyDistillation", "Writing", "continued", "first_written", "is_written"]


@dataclass(frozen=True)
class Writing:
    """Which rows of a stage the student continues, and how."""

    share: float
    """Of the rows, in (0, 1]."""
    seed: int
    stage: int
    """Its number; with the seed and a row's own it names random numbers."""
    ends: Sequence[int]
    """Tokens that end what is written."""


def is_written(row: int, share: float) -> bool:
    """Whether the student continues a row of this number: evenly spread, so that every process has about as many."""
    return int((row + 1) * share) > int(row * share)


def first_written(labels: Tensor) -> Tensor:
    """Where the student begins to write, int64 [rows].

    At the completion whose beginning is nearest to the row's middle, if one begins in its middle half, so that an answer is written to a
    question; in the middle, where the data is plain text.

    Args:
        labels: int64 [rows, seq], `IGNORE` in prompts.
    """
    middle = labels.shape[1] // 2
    begins = (labels[:, 1:] != IGNORE) & (labels[:, :-1] == IGNORE)
    away = (torch.arange(1, labels.shape[1], device=labels.device) - middle).abs()
    nearest = torch.where(begins & (away <= middle // 2), away, labels.shape[1]).min(1)
    return torch.where(nearest.values < labels.shape[1], nearest.indices + 1, middle)


@torch.no_grad()
def continued(
    student: Any, ids: Tensor, begins: Tensor, uniform: Tensor, vocab: int, ends: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Rows that a student has written to their ends, in one batch with a cache of keys and values.

    Args:
        student: the causal language model, in evaluation mode.
        ids: int64 [rows, seq], whose beginnings are kept.
        begins: int64 [rows], the first position that is written, from 1 on.
        uniform: [rows, seq] in [0, 1), where in the cumulative distribution each draw falls.
        vocab: only the first so many tokens are written, which the teacher has too.
        ends: tokens after which a row is not written on.

    Returns:
        Ids int64 [rows, seq], and labels with `IGNORE` but for what was written. Behind an end the ids are still those that were given.
    """
    from transformers import DynamicCache  # late: slow to import

    ids, labels, cache = (
        ids.clone(),
        torch.full_like(ids, IGNORE),
        DynamicCache(config=student.config),
    )
    last, going = torch.tensor(ends, device=ids.device), torch.ones_like(begins, dtype=torch.bool)
    first = int(begins.min())
    step = ids[:, :first]
    for at in range(first, ids.shape[1]):
        hidden = student.get_decoder()(
            input_ids=step, past_key_values=cache, use_cache=True
        ).last_hidden_state[:, -1]
        drawn = _drawn(logits_of(student, hidden)[:, :vocab], uniform[:, at])
        written = going & (begins <= at)
        ids[:, at], labels[:, at] = (
            torch.where(written, drawn, ids[:, at]),
            torch.where(written, drawn, IGNORE),
        )
        going &= ~(written & torch.isin(drawn, last))
        if not going.any():
            break
        step = ids[:, at : at + 1]
    return ids, labels


def _drawn(logits: Tensor, uniform: Tensor) -> Tensor:
    """A token a row of logits [rows, vocab], by the inverse of the cumulative distribution."""
    reached = logits.float().softmax(-1).double().cumsum(-1)
    return torch.searchsorted(reached, uniform.double().unsqueeze(1) * reached[:, -1:], right=True)[
        :, 0
    ]


class OnPolicyDistillation(LogitDistillation):
    """A divergence from the teacher on rows of the data and on rows that the student continues before each step.

    Args:
        student: the causal language model that learns.
        teacher: it must be able to judge rows that nobody knew before.
        temperature: of the divergence; rows are written at 1.
        vocab: see `LogitDistillation`.
        kind: of the divergence.
        writing: which rows, and how.
    """

    def __init__(
        self,
        student: Any,
        teacher: Targets,
        temperature: float,
        vocab: int,
        kind: Divergence,
        writing: Writing,
    ) -> None:
        super().__init__(student, teacher, temperature, 0.0, vocab, kind)
        self.writing = writing

    def drawn(self, ids: Tensor, labels: Tensor, rows: range) -> tuple[Tensor, Tensor]:
        """Ids and labels [batch, seq] with some rows continued by the student.

        Args:
            ids: int64 [batch, seq].
            labels: likewise.
            rows: their numbers, counted from the stage's first row on.
        """
        chosen = [at for at, row in enumerate(rows) if is_written(row, self.writing.share)]
        if not chosen:
            return ids, labels
        names = [(self.writing.stage, rows[at]) for at in chosen]
        uniform = uniforms(self.writing.seed, names, ids.shape[1]).to(ids.device)
        learning = self.student.training
        self.student.eval()  # layers whose activations are computed again keep no cache while they learn
        with parametrize.cached():  # a grid's weights are rounded once, not once a token
            written = continued(
                self.student,
                ids[chosen],
                first_written(labels[chosen]),
                uniform,
                self.vocab,
                self.writing.ends,
            )
        self.student.train(learning)
        ids, labels = ids.clone(), labels.clone()
        ids[chosen], labels[chosen] = written
        return ids, labels
