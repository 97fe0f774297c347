"""The teacher's log-probabilities, from a model in memory, computed in chunks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from ...models import embedding_and_head, finished_logits

__all__ = [
    "LOGITS_AT_ONCE",
    "LogProbs",
    "OnlineTeacher",
    "TeacherLogits",
    "hidden_states",
    "last_hidden",
    "logits_of",
]

LOGITS_AT_ONCE = 2**24
"""Logits in a chunk of tokens; the losses need several float32 copies of them.

With a vocabulary of 152k it is 110 tokens.
"""

LogProbs = Callable[[slice, Tensor, float], tuple[Tensor, Tensor]]
"""Log-probabilities of teacher and student, float32 [tokens, outcomes], over the same outcomes.

Its arguments are a slice of a batch's scored tokens, the student's logits [tokens, vocab] there,
and a temperature.
"""


class TeacherLogits(Protocol):
    """Where the teacher's side of a divergence comes from."""

    def of(self, ids: Tensor, labels: Tensor, scored: Tensor) -> LogProbs:
        """Return the log-probabilities for a batch.

        Args:
            ids: int64 [batch, seq].
            labels: int64 [batch, seq], `IGNORE` where unscored.
            scored: bool [batch, seq - 1], which positions are followed by a scored token.
        """
        ...


def last_hidden(model: Any, ids: Tensor) -> Tensor:
    """Return the input of a causal language model's head, [batch, seq, width]."""
    return model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state


def hidden_states(model: Any, ids: Tensor) -> tuple[Tensor, ...]:
    """Return the embedding's and every layer's output, [batch, seq, width] each."""
    return model.get_decoder()(
        input_ids=ids, use_cache=False, output_hidden_states=True
    ).hidden_states


def logits_of(model: Any, hidden: Tensor) -> Tensor:
    """Return the logits [..., vocab] for inputs [..., width] of the head."""
    logits = model.get_output_embeddings()(hidden)
    config = {"model_type": model.config.model_type, **vars(model.config)}
    return finished_logits(logits, embedding_and_head(config))


class OnlineTeacher:
    """A teacher in memory.

    It is no module, because the teacher must not appear among the trained parameters.

    Args:
        model: a frozen causal language model.
        vocab: number of logits to use, from the first on.
    """

    def __init__(self, model: Any, vocab: int) -> None:
        self.model = model
        self.vocab = vocab

    @torch.no_grad()
    def of(self, ids: Tensor, labels: Tensor, scored: Tensor) -> LogProbs:
        """See `TeacherLogits.of`."""
        hidden = last_hidden(self.model, ids)[:, :-1][scored]

        def log_probs(at: slice, student: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
            with torch.no_grad():
                logits = logits_of(self.model, hidden[at])[..., : self.vocab]
                log_p = (logits.float() / temperature).log_softmax(-1)
            return log_p, (student.float() / temperature).log_softmax(-1)

        return log_probs
