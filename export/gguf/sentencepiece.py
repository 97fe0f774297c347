"""SentencePiece vocabularies for llama.cpp: BPE with scores, and unigram models."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from .tokenizer_kind import BYTE, PROBES, Kind, unreadable

__all__ = ["sentencepiece"]

SPACE = "\u2581"
FIRST_ONLY = (
    "llama.cpp puts a space before a text behind a special token too, and the tokenizer before the "
    "first text only"
)
NOT_BEFORE_SPACE = (
    "llama.cpp puts a space before a text that begins with one too, and the tokenizer does not"
)


def sentencepiece(backend: Any, described: Mapping[str, Any]) -> Kind | None:
    """How llama.cpp reads a tokenizer made from SentencePiece; None: it is of another kind.

    Args:
        backend: the tokenizer of the package tokenizers.
        described: its tokenizer.json.

    Raises:
        Refused: llama.cpp would make other tokens of a text.
    """
    model = described["model"]
    if model.get("type") == "Unigram":
        return _unigram(backend, described)
    if model.get("type") != "BPE":
        return None
    vocabulary: dict[str, int] = model["vocab"]
    if not model.get("byte_fallback") or sum(map(bool, map(BYTE.fullmatch, vocabulary))) < 256:
        raise unreadable("it has no tokens for single bytes (`byte_fallback`)")
    scores = _scores(described)
    prefix = _prefix(backend, any(SPACE in token[1:] for token in vocabulary))
    notes = (FIRST_ONLY,) if prefix.added and _first_only(backend, described) else ()
    return Kind(
        "llama",
        scores=scores,
        bytes=True,
        spaces_escaped=True,
        space_prefix=prefix.added,
        notes=(*notes, *((NOT_BEFORE_SPACE,) if prefix.spares_spaces else ())),
    )


@dataclass(frozen=True)
class _Prefix:
    """The space that a tokenizer puts before a text.

    Attributes:
        added: whether it puts one.
        spares_spaces: whether it puts none before a text that begins with a space.
    """

    added: bool
    spares_spaces: bool = False

    def before(self, text: str) -> str:
        """A text as it is split."""
        spared = not self.added or (self.spares_spaces and text.startswith(" "))
        return ("" if spared else SPACE) + text.replace(" ", SPACE)


def _prefix(backend: Any, crosses_words: bool) -> _Prefix:
    """How a tokenizer begins a text, if it changes nothing else before it merges.

    Args:
        backend: the tokenizer.
        crosses_words: whether there are tokens that reach from one word into the next.

    Raises:
        Refused: it does.
    """
    pieces = [_pieces(backend, text) for text in PROBES]
    for prefix in (_Prefix(True), _Prefix(True, spares_spaces=True), _Prefix(False)):
        if ["".join(parts) for parts in pieces] != [prefix.before(text) for text in PROBES]:
            continue
        if crosses_words and any(len(parts) > 1 for parts in pieces):
            raise unreadable("it splits texts into words before it merges")
        return prefix
    raise unreadable("it changes the text before it splits it (normalizer or pre-tokenizer)")


def _pieces(backend: Any, text: str) -> list[str]:
    """The parts of a text within which merging takes place."""
    if backend.normalizer:
        text = backend.normalizer.normalize_str(text)
    if not backend.pre_tokenizer:
        return [text]
    return [piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str(text)]


def _first_only(backend: Any, described: Mapping[str, Any]) -> bool:
    """Whether only a text at the very beginning gets a space before it."""
    special = next((t["content"] for t in described["added_tokens"] if t["special"]), None)
    if special is None:
        return False
    tokens = backend.encode(f"{special}a", add_special_tokens=False).tokens
    return len(tokens) > 1 and not tokens[1].startswith(SPACE)


def _scores(described: Mapping[str, Any]) -> dict[int, float]:
    """Scores by which llama.cpp merges in the same order as the list of merges does.

    llama.cpp merges any two neighbours that make a token, the best token first. SentencePiece does
    so too, and a tokenizer.json made from it lists all those pairs, those of a token one after the
    other.

    Raises:
        Refused: the list of merges says something else.
    """
    vocabulary: dict[str, int] = described["model"]["vocab"]
    pairs = [
        tuple(m.split(" ")) if isinstance(m, str) else tuple(m)
        for m in described["model"]["merges"]
    ]
    made = ["".join(pair) for pair in pairs]
    order = list(dict.fromkeys(made))
    known = set(pairs)
    runs = 1 + sum(one != other for one, other in pairwise(made))
    added = {token["content"] for token in described["added_tokens"]}
    unlisted = [
        token
        for token in vocabulary
        if token not in added and not BYTE.fullmatch(token)
        for cut in range(1, len(token))
        if (token[:cut], token[cut:]) not in known
        and token[:cut] in vocabulary
        and token[cut:] in vocabulary
    ]
    if pairs and (runs != len(order) or unlisted):
        raise unreadable(
            "its merges are not those of SentencePiece, the only ones that llama.cpp makes of "
            "pieces with U+2581"
        )
    return {vocabulary[token]: -float(rank) for rank, token in enumerate(order)}


def _unigram(backend: Any, described: Mapping[str, Any]) -> Kind:
    """A unigram model; llama.cpp calls it `t5`."""
    model = described["model"]
    if model.get("byte_fallback"):
        raise unreadable("llama.cpp's unigram model has no tokens for single bytes")
    charsmap = b""
    normalizer = described["normalizer"] or {}
    for step in normalizer.get("normalizers", [normalizer] if normalizer else []):
        if step["type"] == "Precompiled":
            charsmap = base64.b64decode(step["precompiled_charsmap"] or "")
    plain = "plain words"
    prefixed = "".join(_pieces(backend, plain)).startswith(SPACE)
    return Kind(
        "t5",
        scores={index: score for index, (_, score) in enumerate(model["vocab"])},
        spaces_escaped=True,
        space_prefix=prefixed,
        charsmap=charsmap,
    )
