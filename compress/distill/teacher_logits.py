"""What the student's logits aim at: those of a teacher in memory, made a chunk at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

__all__ = ["OnlineTeacher", "Target", "Targets", "hidden_states", "last_hidden", "logits_of"]

Target = Callable[[slice, Tensor, float], tuple[Tensor, Tensor]]
"""From a slice of a batch's scored tokens, the student's logits [tokens, vocab] there and a temperature: the log-probabilities of teacher
and student, float32 [tokens, outcomes], of the same outcomes."""


class Targets(Protocol):
    """Where the teacher's side of a divergence comes from."""

    def of(self, ids: Tensor, labels: Tensor, scored: Tensor) -> Target:
        """The targets of a batch.

        Args:
            ids: int64 [batch, seq].
            labels: int64 [batch, seq], `IGNORE` where unscored.
            scored: bool [batch, seq - 1], which positions have a scored token after them.
        """
        ...


def last_hidden(model: Any, ids: Tensor) -> Tensor:
    """What a causal language model's head reads, [batch, seq, width]."""
    return model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state


def hidden_states(model: Any, ids: Tensor) -> tuple[Tensor, ...]:
    """The embedding and every layer's output, [batch, seq, width] each, without the head's logits."""
    return model.get_decoder()(
        input_ids=ids, use_cache=False, output_hidden_states=True
    ).hidden_states


def logits_of(model: Any, hidden: Tensor) -> Tensor:
    """The logits [..., vocab] of what the head reads."""
    logits = model.get_output_embeddings()(hidden)
    cap = getattr(model.config, "final_logit_softcapping", None)
    return logits if cap is None else torch.tanh(logits / cap) * cap


class OnlineTeacher:
    """A teacher in memory. It is only borrowed: it must not appear among what trains, so this is no module.

    Args:
        model: a frozen causal language model.
        vocab: logits are cut to so many.
    """

    def __init__(self, model: Any, vocab: int) -> None:
        self.model, self.vocab = model, vocab

    @torch.no_grad()
    def of(self, ids: Tensor, labels: Tensor, scored: Tensor) -> Target:
        """See `Targets.of`."""
        hidden = last_hidden(self.model, ids)[:, :-1][scored]

        def target(at: slice, student: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
            with torch.no_grad():
                logits = logits_of(self.model, hidden[at])[..., : self.vocab]
                log_p = (logits.float() / temperature).log_softmax(-1)
            return log_p, (student.float() / temperature).log_softmax(-1)

        return target
