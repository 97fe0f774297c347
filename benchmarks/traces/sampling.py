"""Sampling for batches of chains of thought.

Each chain has its own random numbers, so its tokens do not depend on the other rows of its batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...generation.sampling import nucleus_sample

__all__ = ["Sampler"]


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
