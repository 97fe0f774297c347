"""How many rows are generated at the same time: as many as their caches and logits have room."""

from __future__ import annotations

__all__ = ["BUDGET", "MOST_ROWS", "chunk_tokens", "rows_within"]

BUDGET = 2 * 2**30
"""Bytes for the caches and logits of all rows."""
MOST_ROWS = 256
"""The most rows, whatever fits: their work in Python grows too."""
LOGIT_BYTES = 4
LOGIT_COPIES = 2
"""The head's own output, and a copy in float32 or for the choice of tokens."""
CHUNK_TOKENS = 2048
"""The most tokens, padding included, that one pass of a prefill takes."""
CHUNK_BYTES = 2**28
"""The most bytes of logits of one such pass, where a model gives logits of every position."""


def rows_within(
    positions: int, position_bytes: int, vocabulary: int, prompts: int, budget: int = BUDGET
) -> int:
    """The number of rows whose caches and logits fit; at least 1.

    Args:
        positions: the most positions of a row, prompt and answer together.
        position_bytes: keys and values of one position in all layers.
        vocabulary: logits of one position.
        prompts: number of prompts; more rows are of no use.
        budget: bytes for all rows.
    """
    row = positions * position_bytes + LOGIT_COPIES * LOGIT_BYTES * vocabulary
    return max(1, min(MOST_ROWS, prompts, budget // row))


def chunk_tokens(vocabulary: int, whole_logits: bool) -> int:
    """The most tokens that one pass of a prefill takes.

    Args:
        vocabulary: logits of one position.
        whole_logits: whether every position of the pass gets logits, and not just the last one.
    """
    fits = CHUNK_BYTES // (LOGIT_BYTES * vocabulary)
    return max(1, min(CHUNK_TOKENS, fits)) if whole_logits else CHUNK_TOKENS
