"""The distillation losses, as tensor functions: a mean over the scored tokens, zero where student equals teacher."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

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
"""What masked positions count as, whose logarithm must be finite."""


def next_token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of logits [batch, seq, vocab] with the labels [batch, seq] one position on."""
    return F.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=IGNORE
    )


def scored_labels(ids: Tensor, labels: Tensor) -> Tensor:
    """The labels [batch, seq]; every token where a batch has none, so that it still has a loss."""
    return labels if bool((labels != IGNORE).any()) else ids


def hidden_mse(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor,
    average: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Mean squared error of hidden states [batch, seq, width], relative to the mean square of the teacher's.

    Only positions where mask [batch, seq] is true count. Dividing by the teacher's power keeps early and late layers,
    whose magnitudes differ by orders, in one sum (hidden-state alignment: Jiao et al. 2020, section 3). `average` makes that power
    one of the whole batch, where this is a part of it.
    """
    target = teacher[mask].float()
    power = target.pow(2).mean()
    return F.mse_loss(student[mask].float(), target) / (
        average(power) if average else power
    ).clamp_min(1e-12)


def attention_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student) of attention maps [batch, heads, queries, keys], mean over batch, heads and queries; zero at equality.

    Where the numbers of heads differ it is that of the maps' means over heads (Wang et al. 2020, section 3.1, has as many in both).
    """
    if student.shape[1] != teacher.shape[1]:
        student, teacher = student.mean(1), teacher.mean(1)
    log_p, log_q = (maps.float().clamp_min(NO_ATTENTION).log() for maps in (teacher, student))
    return (teacher.float() * (log_p - log_q)).sum(-1).mean()


def divergence(log_p: Tensor, log_q: Tensor, kind: Divergence = "forward") -> Tensor:
    """A divergence of a student q from a teacher p, summed over the tokens; zero where they are equal.

    Args:
        log_p: the teacher's log-probabilities, float32 [tokens, outcomes].
        log_q: the student's.
        kind: forward, KL(p || q), covers all that the teacher does; reverse, KL(q || p), keeps to what it does most (Gu et al. 2023,
            section 2.1); js, the mean of both to their mixture, is bounded (Agarwal et al. 2023, section 2).
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
    """The sum of a function over `total` tokens, `size` at a time; what a chunk needs on the way is made again for its gradient.

    So nothing of the size [tokens, vocabulary] is ever whole in memory, if the function makes its logits itself.
    """
    if total <= size:
        return part(slice(0, total))
    chunks = (slice(begin, min(begin + size, total)) for begin in range(0, total, size))
    again: Any = recomputing.checkpoint  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    sums: list[Tensor] = [
        again(part, at, use_reentrant=False, preserve_rng_state=False) for at in chunks
    ]
    return torch.stack(sums).sum()
