"""The tokenizer of an artifact: texts to tokens and back, and how a single token is spelled."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from .reasoning import CLOSE, OPEN
from .tool_formats import FORMATS

__all__ = ["MARKS", "Vocabulary"]

MARKS = frozenset((OPEN, CLOSE, *(mark for one in FORMATS for mark in (one.mark, one.end) if mark)))
"""Special tokens that mean something in a chat answer."""
KNOWN = 4096
"""Tokens whose spelling is remembered."""
FALLBACK = re.compile(r"<0x([0-9A-F]{2})>")
"""How SentencePiece spells a token that is one byte."""
SPACE = "\u2581"
"""How SentencePiece spells a space."""


class Vocabulary:
    """A tokenizer of transformers.

    Args:
        tokenizer: the tokenizer.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        added: dict[int, Any] = tokenizer.added_tokens_decoder
        self._added = {number: str(token.content) for number, token in added.items()}
        self._hidden = frozenset(
            number
            for number, token in added.items()
            if token.special and str(token.content) not in MARKS
        )
        self._bytes_of = lru_cache(KNOWN)(self._bytes)
        self._byte_level = "ByteLevel" in repr(tokenizer.backend_tokenizer.decoder)

    def encode(self, text: str, **options: Any) -> list[int]:
        """The tokens of a text. The options are those of transformers."""
        # Without `verbose=False` a text beyond the context is a line on standard error.
        return list(self._tokenizer.encode(text, verbose=False, **options))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens without special ones."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def decode_marked(self, ids: Sequence[int]) -> str:
        """The text of tokens without special ones, but with those that are `MARKS`."""
        shown = [number for number in ids if number not in self._hidden]
        return str(self._tokenizer.decode(shown, skip_special_tokens=False))

    def has(self, text: str) -> bool:
        """Whether a text is a token that was added to the vocabulary."""
        return text in self._added.values()

    def spelling(self, token: int) -> tuple[str, bytes]:
        """The text of one token, and its bytes, which need not be whole characters."""
        raw = self._bytes_of(token)
        return raw.decode(errors="replace"), raw

    def _bytes(self, token: int) -> bytes:
        if token in self._added:
            return self._added[token].encode()
        piece: str | None = self._tokenizer.convert_ids_to_tokens(token)
        if piece is None:  # a model may have more logits than its tokenizer has tokens
            return b""
        if self._byte_level:
            return bytes(BYTES[one] for one in piece)
        if found := FALLBACK.fullmatch(piece):
            return bytes([int(found[1], 16)])
        return piece.replace(SPACE, " ").encode()


def _byte_characters() -> dict[str, int]:
    """The character that GPT-2's byte-level BPE writes for each byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {
        chr(256 + place): byte for place, byte in enumerate(others)
    }


BYTES = _byte_characters()
