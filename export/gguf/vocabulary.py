"""A tokenizer as llama.cpp reads it: tokens, their types, special tokens and the chat template."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any

from ...checkpoints.config import end_tokens, written_config
from ...checkpoints.tokenizer import VOCABULARIES, load_tokenizer
from .byte_level import byte_level
from .sentencepiece import sentencepiece
from .tokenizer_kind import BYTE, Kind, unreadable

__all__ = ["Vocabulary", "vocabulary_of"]

NAMED = {"phi-3", "phi3", "modern-bert"}
"""Words in the name of a model from which llama.cpp draws conclusions about its tokenizer."""
PHI3 = {"</s>", "<unk>", "<s>", "<|endoftext|>"}
"""Tokens without which llama.cpp fails on a model that has `phi-3` in its name."""
SAMPLE = "a"
"""Encoded with and without special tokens, to see which are added."""
END_KEYS: tuple[str, ...] = ("eos", "eom", "eot")
"""llama.cpp ends a text at any of these; it has no list of end tokens."""


class TokenType(IntEnum):
    """The values of `tokenizer.ggml.token_type`."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Vocabulary:
    """What the file says about the tokenizer.

    Attributes:
        kind: how a text becomes tokens; None: there is no tokenizer.
        tokens: the text of each token.
        types: see `TokenType`.
        ids: special tokens by llama.cpp's name: bos, eos, eot, eom, pad, unk.
        adds: whether a text begins with `bos` and ends with `eos`.
        template: the chat template; None: there is none.
        strips: whether special tokens take away the space behind them.
        notes: what llama.cpp does otherwise than the tokenizer.
    """

    kind: Kind | None = None
    tokens: Sequence[str] = ()
    types: Sequence[int] = ()
    ids: Mapping[str, int] = field(default_factory=dict[str, int])
    adds: tuple[bool, bool] = (False, False)
    template: str | None = None
    strips: bool = False
    notes: tuple[str, ...] = ()

    @property
    def model(self) -> str:
        """`tokenizer.ggml.model`."""
        return self.kind.model if self.kind else "no_vocab"

    def name(self, model: str) -> str:
        """The name of a model in a form that llama.cpp draws the right conclusions from.

        It takes the space behind special tokens away where the name has `phi-3` in it.
        """
        named = any(word in model.lower() for word in NAMED)
        if self.strips and set(self.tokens) >= PHI3:
            return model if named else f"{model} (phi-3)"
        return model.replace("-", "_").replace("hi3", "hi_3") if named else model

    def add_keys(self, writer: Any) -> None:
        """Write the keys of `tokenizer`."""
        writer.add_tokenizer_model(self.model)
        if not self.kind:
            return
        writer.add_tokenizer_pre(self.kind.pre)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        if self.kind.merges:
            writer.add_token_merges(self.kind.merges)
        if self.kind.scores:
            lowest = min(self.kind.scores.values()) - 1.0
            writer.add_token_scores(
                [self.kind.scores.get(index, lowest) for index in range(len(self.tokens))]
            )
        if self.kind.charsmap:
            writer.add_precompiled_charsmap(self.kind.charsmap)
        for name, index in self.ids.items():
            getattr(writer, f"add_{name}_token_id")(index)
        writer.add_add_bos_token(self.adds[0])
        writer.add_add_eos_token(self.adds[1])
        writer.add_add_space_prefix(self.kind.space_prefix)
        if self.template:
            writer.add_chat_template(self.template)


def vocabulary_of(checkpoint: Path, size: int) -> Vocabulary:
    """The tokenizer of a checkpoint, as transformers loads it.

    Args:
        checkpoint: the model directory.
        size: rows of the embedding; tokens that the tokenizer lacks are written as unused.

    Raises:
        Refused: llama.cpp would make other tokens of a text.
    """
    if not any((checkpoint / name).is_file() for name in VOCABULARIES):
        note = "there is no tokenizer, so llama.cpp can use the file with token ids only"
        return Vocabulary(notes=(note,))
    tokenizer = load_tokenizer(checkpoint)
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise unreadable("it has no tokenizer.json")
    described: dict[str, Any] = json.loads(backend.to_str())
    kind = byte_level(backend, described) or sentencepiece(backend, described)
    if kind is None:
        raise unreadable(f"its model is {described['model'].get('type')}")
    tokens, types = _tokens(backend, described, kind, size)
    ids, adds, notes = _special(checkpoint, tokenizer, types)
    strips = any(token["rstrip"] for token in described["added_tokens"] if token["special"])
    if strips and not set(tokens) >= PHI3:
        notes.append("llama.cpp keeps the space behind special tokens, and the tokenizer does not")
    notes = (*kind.notes, *notes)
    return Vocabulary(kind, tokens, types, ids, adds, tokenizer.chat_template, strips, notes)


def _tokens(
    backend: Any, described: Mapping[str, Any], kind: Kind, size: int
) -> tuple[list[str], list[int]]:
    """The text and the type of every token."""
    names = {index: name for name, index in backend.get_vocab(with_added_tokens=True).items()}
    tokens = [names.get(index, f"[PAD{index}]") for index in range(size)]
    types = [TokenType.NORMAL if index in names else TokenType.UNUSED for index in range(size)]
    if kind.bytes:
        for index, name in names.items():
            if BYTE.fullmatch(name):
                types[index] = TokenType.BYTE
    for token in described["added_tokens"]:
        index, name = token["id"], token["content"]
        types[index] = TokenType.CONTROL if token["special"] else TokenType.USER_DEFINED
        if kind.spaces_escaped and not token["special"]:
            tokens[index] = name.replace("\u2581", " ")  # llama.cpp looks for it in the plain text
    unknown = described["model"].get("unk_token")
    if kind.bytes and unknown in names.values():
        types[backend.token_to_id(unknown)] = TokenType.UNKNOWN
    return tokens, [int(kind) for kind in types]


def _special(
    checkpoint: Path, tokenizer: Any, types: Sequence[int]
) -> tuple[dict[str, int], tuple[bool, bool], list[str]]:
    """Special tokens, whether a text gets the first and the last, and what cannot be said."""
    plain: list[int] = tokenizer.encode(SAMPLE, add_special_tokens=False)
    whole: list[int] = tokenizer.encode(SAMPLE)
    start = next(i for i in range(len(whole)) if whole[i : i + len(plain)] == plain)
    before, after = whole[:start], whole[start + len(plain) :]
    ends = list(dict.fromkeys([*_given(tokenizer.eos_token_id), *end_tokens(checkpoint)]))
    ends = [end for end in ends if end < len(types)]
    notes: list[str] = []
    if len(before) > 1 or len(after) > 1:
        notes.append(
            f"a text gets {len(before)} tokens before and {len(after)} behind it, and llama.cpp "
            "adds one at most"
        )
    if len(ends) > len(END_KEYS):
        notes.append(f"llama.cpp knows {len(END_KEYS)} of the {len(ends)} end tokens")
    if not ends:  # llama.cpp would end a text at token 11
        ends = [index for index, kind in enumerate(types) if kind == TokenType.UNUSED][:1]
        notes.append("no file names an end token, so a text ends at the length that is asked for")
    ids: dict[str, int] = dict(zip(END_KEYS, ends, strict=False))
    told = written_config(checkpoint).get("bos_token_id")
    for first in (*before[-1:], *_given(tokenizer.bos_token_id), *_given(told), *ends):
        ids.setdefault("bos", first)  # without one llama.cpp would take token 11
    for name in ("pad", "unk"):
        for index in _given(getattr(tokenizer, f"{name}_token_id")):
            ids[name] = index
    return ids, (bool(before), bool(after)), notes


def _given(index: int | None) -> tuple[int, ...]:
    return () if index is None else (index,)
