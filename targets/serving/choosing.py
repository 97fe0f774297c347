"""Choose the next token of each running sequence, with log probabilities where they are wanted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ...export.onnx.sampling import next_tokens
from .guide import Wish
from .sequence import Generation, Token

__all__ = ["chosen_tokens", "with_logprobs"]


def chosen_tokens(
    logits: NDArray[np.float32], rows: Sequence[Generation], wishes: Sequence[Wish]
) -> list[Token]:
    """The next token of each row.

    Args:
        logits: [rows, vocabulary].
        rows: the running sequences.
        wishes: what may come next in each of them.
    """
    allowed = _allowed(logits, rows, wishes)
    ids = next_tokens(allowed, [row.sampling for row in rows], [row.random for row in rows])
    found: list[Token] = []
    for one, drawn, row, wish in zip(logits, ids.tolist(), rows, wishes, strict=True):
        token = wish if isinstance(wish, int) else drawn
        alternatives = row.alternatives
        found.append(
            Token(token) if alternatives is None else with_logprobs(one, token, alternatives)
        )
    return found


def _allowed(
    logits: NDArray[np.float32], rows: Sequence[Generation], wishes: Sequence[Wish]
) -> NDArray[np.float32]:
    """The logits with preferences; minus infinity for tokens that may not come next."""
    preferred = {row: one for row, each in enumerate(rows) if (one := each.preferences)}
    masks = {row: wish for row, wish in enumerate(wishes) if isinstance(wish, np.ndarray)}
    if not masks and not preferred:
        return logits
    allowed = np.array(logits)
    for row, preferences in preferred.items():
        preferences.apply(allowed[row], rows[row].answer)
    for row, mask in masks.items():
        allowed[row, ~mask] = -np.inf
    return allowed


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
