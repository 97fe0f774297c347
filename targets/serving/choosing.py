"""Choose the next token of each running sequence, with log probabilities where they are wanted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ...export.onnx.sampling import next_tokens
from .sequence import Generation, Token

__all__ = ["chosen_tokens", "with_logprobs"]


def chosen_tokens(logits: NDArray[np.float32], rows: Sequence[Generation]) -> list[Token]:
    """The next token of each row.

    Args:
        logits: [rows, vocabulary].
        rows: the running sequences.
    """
    ids = next_tokens(logits, [row.sampling for row in rows], [row.random for row in rows])
    return [
        Token(token) if row.alternatives is None else with_logprobs(one, token, row.alternatives)
        for one, token, row in zip(logits, ids.tolist(), rows, strict=True)
    ]


def with_logprobs(logits: NDArray[np.float32], token: int, alternatives: int) -> Token:
    """A token with its log probability, and those of the most likely tokens.

    Args:
        logits: [vocabulary].
        token: the token that was chosen.
        alternatives: number of the most likely tokens.
    """
    shifted = logits.astype(np.float32) - logits.max()
    logprobs = shifted - np.log(np.exp(shifted).sum())
    count = min(alternatives, len(logprobs))
    likely = np.argpartition(-logprobs, count - 1)[:count] if count else np.empty(0, np.int64)
    likely = likely[np.argsort(-logprobs[likely], kind="stable")]
    return Token(
        token, float(logprobs[token]), likely.astype(np.int32), logprobs[likely].astype(np.float32)
    )
