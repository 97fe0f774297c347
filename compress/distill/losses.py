"""The distillation losses as tensor functions; each is zero where student and teacher are equal."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils import checkpoint as recomputing

from ...data.packing import IGNORE
from .stage_options import Divergence

__all__ = [
    "attention_kl",
    "divergence",
    "hidden_mse",
    "in_chunks",
    "next_token_loss",
    "scored_labels",
]

NO_ATTENTION = 1e-12
"""Probability used for masked positions, because its logarithm must be finite."""


def next_token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of logits [batch, seq, vocab] with the next label of labels [batch, seq]."""
    return F.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=IGNORE
    )


def scored_labels(ids: Tensor, labels: Tensor) -> Tensor:
    """Return the labels [batch, seq], or the ids if no label is scored, so that a loss exists."""
    return labels if bool((labels != IGNORE).any()) else ids


def hidden_mse(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor,
    average: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Mean squared error of hidden states, divided by the mean square of the teacher's.

    Hidden-state alignment is from Jiao et al. 2020, section 3. The division makes early and late
    layers, whose magnitudes differ by orders, count equally.

    Args:
        student: hidden states [batch, seq, width].
        teacher: likewise.
        mask: bool [batch, seq]; only positions where it is true count.
        average: averages the teacher's mean square over all processes that share a batch.
    """
    target = teacher[mask].float()
    power = target.pow(2).mean()
    return F.mse_loss(student[mask].float(), target) / (
        average(power) if average else power
    ).clamp_min(1e-12)


def attention_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student) of attention maps [batch, heads, queries, keys].

    It is the mean over batch, heads and queries. If the numbers of heads differ, the maps are
    averaged over heads first (Wang et al. 2020, section 3.1, has equal numbers).
    """
    if student.shape[1] != teacher.shape[1]:
        student = student.mean(1)
        teacher = teacher.mean(1)
    log_p, log_q = (maps.float().clamp_min(NO_ATTENTION).log() for maps in (teacher, student))
    return (teacher.float() * (log_p - log_q)).sum(-1).mean()


def divergence(log_p: Tensor, log_q: Tensor, kind: Divergence = "forward") -> Tensor:
    """Divergence of a student q from a teacher p, summed over the tokens.

    Args:
        log_p: the teacher's log-probabilities, float32 [tokens, outcomes].
        log_q: the student's.
        kind: forward: KL(p || q), penalizes missing what the teacher does. reverse: KL(q || p),
            penalizes what the teacher would not do (Gu et al. 2023, section 2.1). js: mean of the
            KL of both to their mixture, bounded (Agarwal et al. 2023, section 2).
    """
    if kind == "forward":
        return F.kl_div(log_q, log_p, reduction="sum", log_target=True)
    if kind == "reverse":
        return F.kl_div(log_p, log_q, reduction="sum", log_target=True)
    mixture = torch.logaddexp(log_p, log_q) - math.log(2)
    return (
        F.kl_div(mixture, log_p, reduction="sum", log_target=True)
        + F.kl_div(mixture, log_q, reduction="sum", log_target=True)
    ) / 2


def in_chunks(total: int, size: int, part: Callable[[slice], Tensor]) -> Tensor:
    """Sum a function over `total` tokens, `size` at a time, with little memory.

    Intermediate results of a chunk are not kept; they are computed again for the gradient. If
    `part` makes its own logits, no tensor [tokens, vocabulary] ever exists as a whole.
    """
    if total <= size:
        return part(slice(0, total))
    chunks = (slice(begin, min(begin + size, total)) for begin in range(0, total, size))
    again = cast("Any", recomputing).checkpoint  # its type is incomplete
    sums: list[Tensor] = [
        again(part, at, use_reentrant=False, preserve_rng_state=False) for at in chunks
    ]
    return torch.stack(sums).sum()
