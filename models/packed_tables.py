"""How many bits a token's row has in an embedding and a head that are packed as they are exported.

Tokenizers number tokens in the order of their merges, frequent ones first, and put special and
added tokens at the beginning or the end. So the rows between are rare in text: on code, mathematics
and WikiText, 95 % of the tokens of Qwen2.5 are in the first two fifths of its vocabulary. Rare rows
have 4 bits, the others 8. The tokens of Chinese and Russian text are mostly in such rows; what that
costs is in perf/RESULTS.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from .architecture import Architecture

__all__ = ["BLOCKS", "TableBytes", "packed_table_bytes", "rare_rows"]

BLOCKS = {8: (128, 64, 32, 16), 4: (32, 16)}
"""By bits, how many inputs share a scale; the first number that divides the width is used."""
SCALE_BYTES = 4
SMALLEST = 16_384
"""Rows of the smallest vocabulary with rare rows. In a smaller one there is little to save."""
LAST_ROWS = 512
"""Rows at the end with 8 bits, which special and added tokens may have."""
STEP = 64
"""The first rare row is a multiple of this."""


def rare_rows(vocab_size: int) -> range:
    """The rows with 4 bits; none in a small vocabulary."""
    if vocab_size < SMALLEST:
        return range(0)
    return range(vocab_size * 2 // 5 // STEP * STEP, vocab_size - LAST_ROWS)


@dataclass(frozen=True)
class TableBytes:
    """Bytes of an embedding and a head of which at least one is packed.

    Attributes:
        embedding: of an embedding that is not the head too; 0: the head is tied to it.
        head: of the head.
    """

    embedding: int
    head: int


def packed_table_bytes(model: Architecture) -> TableBytes:
    """Bytes of the embedding and the head with their scales, packed as they are exported."""
    rare = len(rare_rows(model.vocab_size))
    width = model.hidden_size
    head = sum(
        rows * (width * bits // 8 + width // _block(width, bits) * SCALE_BYTES)
        for rows, bits in ((model.vocab_size - rare, 8), (rare, 4))
    )
    return TableBytes(0 if model.tied else head, head)


def _block(width: int, bits: int) -> int:
    return next((size for size in BLOCKS[bits] if width % size == 0), BLOCKS[bits][-1])
