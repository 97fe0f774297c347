"""Tokens drawn from a model's distribution, each chain by random numbers of its own: what it writes does not depend on who is beside it."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Sampler", "nucleus_sample"]


def nucleus_sample(logits: Tensor, temperature: float, top_p: float, uniform: Tensor) -> Tensor:
    """A token a row, drawn from the fewest most probable ones that together have `top_p` (Holtzman et al. 2019, section 3.1).

    Args:
        logits: [rows, vocab].
        temperature: divides them; 0: the most probable token.
        top_p: in (0, 1].
        uniform: [rows], in [0, 1): where in the cumulative distribution each draw falls.

    Returns:
        int64 [rows].
    """
    if temperature == 0:
        return logits.argmax(-1)
    probabilities, order = (
        (logits.float() / temperature).softmax(-1).sort(dim=-1, descending=True, stable=True)
    )
    reached = probabilities.cumsum(-1)
    inside = (reached - probabilities < top_p).sum(-1, keepdim=True)  # at least the first
    mass = reached.gather(-1, inside - 1)
    drawn = (reached <= uniform.unsqueeze(-1) * mass).sum(-1, keepdim=True).minimum(inside - 1)
    return order.gather(-1, drawn)[:, 0]


class Sampler:
    """Chooses the next token of the rows of one batch, and remembers how uncertain the model was.

    Args:
        temperature: see `nucleus_sample`.
        top_p: see `nucleus_sample`.
        drawn: random numbers, float32 [rows, tokens], of all rows of the batch.
    """

    def __init__(self, temperature: float, top_p: float, drawn: Tensor) -> None:
        self.temperature, self.top_p, self.drawn = temperature, top_p, drawn
        self._entropy, self._tokens = torch.zeros(len(drawn)), torch.zeros(len(drawn))

    def __call__(self, logits: Tensor, rows: Tensor, step: int) -> Tensor:
        """See `TokenChooser`."""
        self._entropy[rows] += torch.special.entr(logits.float().softmax(-1)).sum(-1).cpu()
        self._tokens[rows] += 1
        return nucleus_sample(
            logits, self.temperature, self.top_p, self.drawn[rows, step].to(logits.device)
        )

    def entropy(self) -> list[float]:
        """Of each row, the mean entropy of the distributions that its tokens came from, untempered, in nats."""
        return (self._entropy / self._tokens.clamp_min(1)).tolist()
