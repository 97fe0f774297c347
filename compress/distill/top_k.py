"""The k largest logits of a token; log-probabilities over these k and all others together."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

__all__ = ["TopK", "top_k_log_probs"]


class TopK:
    """The largest logits of tokens.

    Attributes:
        values: float32 [tokens, k], largest first; or the whole vocabulary in its order.
        indices: int32 [tokens, k], token of each value; None: the whole vocabulary is kept.
        tails: float32 [tokens, temperatures], log-sum-exp of the other logits divided by each
            temperature.
    """

    def __init__(self, values: Tensor, indices: Tensor | None, tails: Tensor) -> None:
        self.values = values
        self.indices = indices
        self.tails = tails

    @classmethod
    def of(cls, logits: Tensor, k: int, temperatures: Iterable[float]) -> TopK:
        """Keep the k largest of whole logits [tokens, vocab]."""
        logits = logits.float()
        if k >= logits.shape[1]:
            return cls(
                logits,
                None,
                torch.full(
                    (len(logits), len(list(temperatures))), -torch.inf, device=logits.device
                ),
            )
        values, indices = logits.topk(k)
        others = logits.scatter(1, indices, -torch.inf)
        tails = torch.stack([(others / t).logsumexp(1) for t in temperatures], 1)
        return cls(values, indices.int(), tails)

    @classmethod
    def joined(cls, parts: list[TopK], device: torch.device) -> TopK:
        """Concatenate several along the tokens, on a device."""
        indices = [part.indices for part in parts if part.indices is not None]
        values = torch.cat([part.values for part in parts])
        tails = torch.cat([part.tails for part in parts])
        return cls(
            values.to(device), torch.cat(indices).to(device) if indices else None, tails.to(device)
        )

    def __getitem__(self, at: slice) -> TopK:
        """Return a slice of the tokens."""
        return TopK(
            self.values[at], None if self.indices is None else self.indices[at], self.tails[at]
        )

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by their names in a file."""
        return {"values": self.values, "tails": self.tails} | (
            {} if self.indices is None else {"indices": self.indices}
        )

    def mass(self, temperature: float, column: int) -> Tensor:
        """Return the teacher's probability of the kept tokens, [tokens].

        Args:
            temperature: of the distribution.
            column: column of `tails` for this temperature.
        """
        kept = (self.values / temperature).logsumexp(1)
        return (kept - torch.logaddexp(kept, self.tails[:, column])).exp()


def top_k_log_probs(
    kept: TopK, student: Tensor, temperature: float, column: int
) -> tuple[Tensor, Tensor]:
    """Return log-probabilities of teacher and student over the kept tokens and all others as one.

    Args:
        kept: the teacher's logits, for as many tokens.
        student: logits [tokens, vocab].
        temperature: of both distributions.
        column: column of `kept.tails` for this temperature.
    """
    scaled = student.float() / temperature
    values = kept.values / temperature
    if kept.indices is None:
        return values.log_softmax(-1), scaled.log_softmax(-1)
    tail = kept.tails[:, column : column + 1]
    indices = kept.indices.long()
    teacher = torch.cat([values, tail], 1)
    others = scaled.scatter(1, indices, -torch.inf).logsumexp(1, keepdim=True)
    with_others = torch.cat([scaled.gather(1, indices), others], 1)
    return teacher.log_softmax(-1), with_others.log_softmax(-1)
