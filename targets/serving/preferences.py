"""Make tokens more or less likely: penalties for those that an answer has, and biases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["Preferences"]


@dataclass(frozen=True)
class Preferences:
    """What changes the logits of an answer, as OpenAI defines it.

    Attributes:
        frequency: taken off the logit of a token for each time that the answer has it.
        presence: taken off the logit of each token that the answer has.
        biases: what is added, by token.
    """

    frequency: float = 0.0
    presence: float = 0.0
    biases: Mapping[int, float] = field(default_factory=dict[int, float])

    def __bool__(self) -> bool:
        return bool(self.frequency or self.presence or self.biases)

    def apply(self, logits: NDArray[np.float32], answer: Sequence[int]) -> None:
        """Change the logits of the next token, [vocabulary], in place.

        Args:
            logits: the logits.
            answer: the tokens so far.
        """
        if answer and (self.frequency or self.presence):
            tokens, counts = np.unique(np.asarray(answer), return_counts=True)
            logits[tokens] -= self.presence + self.frequency * counts.astype(np.float32)
        if self.biases:
            tokens = np.fromiter(self.biases, np.int64)
            logits[tokens] += np.fromiter(self.biases.values(), np.float32)
