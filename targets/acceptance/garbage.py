"""Recognize answers that are garbage, by what they are and with what usually causes it.

Pure functions of texts and tokens. An answer is garbage only in a way in which the reference's
answer to the same prompt is not: small models repeat themselves too.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Literal

__all__ = ["CAUSES", "Kind", "foreign_share", "garbage_kind", "is_loop"]

Kind = Literal["empty", "repetition", "unreadable", "other script"]
CAUSES: dict[Kind, str] = {
    "empty": "the end token comes first: the device reads the prompt otherwise (the chat template, "
    "a token at the beginning, the end tokens)",
    "repetition": "weights or scales of a layer are wrong or in another order, or the cache is not "
    "extended from one token to the next",
    "unreadable": "the tokens are those of another tokenizer, or the embedding's rows are wrong",
    "other script": "the embedding, the output head or their scales are wrong, or the tokens are "
    "those of another tokenizer",
}
"""Kind of garbage -> what usually causes it."""
LONGEST_LOOP = 16
"""The longest repeated part, in tokens."""
LOOPED = 12
"""The fewest tokens that must be a loop, and at least three times its part."""
TURNS = 3
FEW_LETTERS = 12
"""An answer with fewer letters shows no script."""
FOREIGN = 0.3
UNREADABLE = 0.2
COMMON = 0.02
"""Share of the reference's letters from which on a script counts as used there."""


def garbage_kind(
    text: str, tokens: Sequence[int], expected_text: str, expected: Sequence[int], prompt: str
) -> Kind | None:
    """In which way an answer is garbage, or None.

    Args:
        text: the answer.
        tokens: its tokens, without the end token.
        expected_text: the reference's answer.
        expected: its tokens, without the end token.
        prompt: the text of the prompt, whose letters may be repeated.
    """
    if not text.strip():
        return "empty" if expected_text.strip() else None
    if is_loop(tokens) and not is_loop(expected):
        return "repetition"
    if _unreadable_share(text) > max(UNREADABLE, 2 * _unreadable_share(expected_text)):
        return "unreadable"
    if foreign_share(text, f"{expected_text} {prompt}") > FOREIGN:
        return "other script"
    return None


def is_loop(tokens: Sequence[int]) -> bool:
    """Whether the last tokens are one part of at most 16 tokens, three times or more in a row."""
    for period in range(1, LONGEST_LOOP + 1):
        length = max(LOOPED, TURNS * period)
        tail = tokens[-length:]
        if len(tail) == length and all(
            tail[at] == tail[at - period] for at in range(period, length)
        ):
            return True
    return False


def foreign_share(text: str, known: str) -> float:
    """Share of a text's letters that are of a script which another text does not use."""
    scripts = _scripts(text)
    letters = sum(scripts.values())
    used = _scripts(known)
    if letters < FEW_LETTERS or not used:
        return 0.0
    least = COMMON * sum(used.values())
    return sum(count for script, count in scripts.items() if used[script] < least) / letters


def _scripts(text: str) -> Counter[str]:
    """Number of letters of each script, which is the first word of a letter's name in Unicode."""
    names = (unicodedata.name(letter, "") for letter in text if letter.isalpha())
    return Counter(name.partition(" ")[0] for name in names if name)


def _unreadable_share(text: str) -> float:
    """Share of characters that are no text: replacement, control and private ones."""
    bad = sum(
        character == "\N{REPLACEMENT CHARACTER}"
        or (unicodedata.category(character) in ("Cc", "Co", "Cn") and character not in "\n\t\r")
        for character in text
    )
    return bad / max(len(text), 1)
