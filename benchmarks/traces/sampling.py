"""Nucleus sampling in torch, for batches of chains of thought.

Each chain has its own random numbers, so its tokens do not depend on the other rows of its batch.
`export/onnx/sampling.py` does the same in numpy for devices; a test compares the two.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Sampler", "nucleus_sample"]


def nucleus_sample(logits: Tensor, temperature: float, top_p: float, uniform: Tensor) -> Tensor:
    """Draw a token for each row by nucleus sampling (Holtzman et al. 2019, section 3.1).

    A token is drawn from the smallest set of most probable tokens whose probability is `top_p`.

    Args:
        logits: [rows, vocab].
        temperature: divides the logits; 0 always gives the most probable token.
        top_p: in (0, 1].
        uniform: [rows], random numbers in [0, 1): positions in the cumulative distribution.

    Returns:
        int64 [rows].
    """
    if temperature == 0:
        return logits.argmax(-1)
    shares = (logits.float() / temperature).softmax(-1)
    probabilities, order = shares.sort(dim=-1, descending=True, stable=True)
    reached = probabilities.cumsum(-1)
    inside = (reached - probabilities < top_p).sum(-1, keepdim=True)  # at least the first
    mass = reached.gather(-1, inside - 1)
    drawn = (reached <= uniform.unsqueeze(-1) * mass).sum(-1, keepdim=True).minimum(inside - 1)
    return order.gather(-1, drawn)[:, 0]


class Sampler:
    """A `TokenChooser` for one batch, which also records how uncertain the model was.

    Args:
        temperature: see `nucleus_sample`.
        top_p: see `nucleus_sample`.
        uniform: random numbers in [0, 1), float32 [rows, tokens], for all rows of the batch.
    """

    def __init__(self, temperature: float, top_p: float, uniform: Tensor) -> None:
        self.temperature = temperature
        self.top_p = top_p
        self.uniform = uniform
        self._entropy = torch.zeros(len(uniform))
        self._tokens = torch.zeros(len(uniform))

    def __call__(self, logits: Tensor, rows: Tensor, steps: Tensor) -> Tensor:
        """Choose the next tokens; see `TokenChooser`."""
        self._entropy[rows] += torch.special.entr(logits.float().softmax(-1)).sum(-1).cpu()
        self._tokens[rows] += 1
        uniform = self.uniform[rows, steps].to(logits.device)
        return nucleus_sample(logits, self.temperature, self.top_p, uniform)

    def entropy(self) -> list[float]:
        """The mean entropy of each row's distributions in nats, at temperature 1."""
        return (self._entropy / self._tokens.clamp_min(1)).tolist()
