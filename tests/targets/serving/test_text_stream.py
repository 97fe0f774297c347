"""Tokens become text while they arrive, up to the first stop text."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from edgewright.checkpoints.config import BUILTIN_MODEL, model_path
from edgewright.checkpoints.tokenizer import load_tokenizer
from edgewright.targets.serving.text import CONTEXT, LONGEST, TextStream

INCOMPLETE = "\ufffd"
CHARACTERS = st.characters(exclude_characters=INCOMPLETE, exclude_categories=["Cs"])


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=20), st.lists(st.text(min_size=1, max_size=3), max_size=2))
def test_streamed_text_is_the_text_before_the_first_stop(text: str, stops: list[str]) -> None:
    """Byte tokens, so that characters arrive in parts."""
    text = text.replace("\ufffd", "")
    raw = list(text.encode())
    stream = TextStream(lambda ids: bytes(ids).decode(errors="replace"), stops)
    pieces = []
    for token in raw:
        pieces.append(stream.add(token))
        if stream.stopped:
            break
    pieces.append(stream.finish())
    ends = [place for place in (text.find(stop) for stop in stops) if place >= 0]
    assert "".join(pieces) == (text[: min(ends)] if ends else text)
    assert stream.stopped == bool(ends)


def streamed(decode: Callable[[list[int]], str], ids: Sequence[int]) -> str:
    """The pieces of an answer, joined."""
    stream = TextStream(decode)
    return "".join([*map(stream.add, ids), stream.finish()])


def with_byte_fallback(ids: Sequence[int]) -> str:
    """Like tokenizers' ByteFallback: a run of byte tokens is a text, or nothing but \ufffd.

    Ids below 256 are bytes; above, characters.
    """
    parts: list[str] = []
    for is_byte, run in itertools.groupby(ids, lambda token: token < 256):
        tokens = list(run)
        try:
            parts.append(
                bytes(tokens).decode() if is_byte else "".join(chr(t - 256) for t in tokens)
            )
        except UnicodeDecodeError:
            parts.append(INCOMPLETE * len(tokens))
    return "".join(parts)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(CHARACTERS, st.booleans()), max_size=30))
def test_characters_of_byte_tokens_arrive_whole(characters: list[tuple[str, bool]]) -> None:
    ids: list[int] = []
    for character, as_bytes in characters:
        ids += list(character.encode()) if as_bytes else [ord(character) + 256]
    assert streamed(with_byte_fallback, ids) == "".join(one for one, _ in characters)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([" a", " bc", "d", ",", " ", "\n"]), max_size=30))
def test_the_first_space_of_an_answer_is_the_only_one_that_is_dropped(words: list[str]) -> None:
    """As SentencePiece's decoder does with the first token of what it decodes."""
    text = "".join(words)
    found = streamed(
        lambda ids: "".join(words[i] for i in ids).removeprefix(" "), range(len(words))
    )
    assert found == text.removeprefix(" ")


def test_the_builtin_tokenizer_gives_the_same_text_in_pieces_and_at_once() -> None:
    tokenizer = load_tokenizer(Path(model_path(BUILTIN_MODEL)))
    text = (
        "Tom has 3 apples,\n\tand 17 pears.  Größe: ½ 你好 \U0001f600\U0001f468\u200d\U0001f469!"
        * 3
    )
    ids = tokenizer.encode(text, add_special_tokens=False)

    def decode(tokens: list[int]) -> str:
        return str(tokenizer.decode(tokens, skip_special_tokens=True))

    assert streamed(decode, ids) == decode(ids)


def test_a_token_costs_the_same_at_the_end_of_a_long_answer() -> None:
    """Also where the answer is nothing but broken characters."""
    for byte in (ord("a"), 0xFF, 0xE4):
        sizes: list[int] = []

        def decode(ids: list[int], sizes: list[int] = sizes) -> str:
            sizes.append(len(ids))
            return bytes(ids).decode(errors="replace")

        streamed(decode, [byte] * 3000)
        assert max(sizes) <= (CONTEXT + 2) * (LONGEST + 1)
        assert len(sizes) <= 2 * 3001
