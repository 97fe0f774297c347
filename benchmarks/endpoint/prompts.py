"""Random prompts of a chosen length in tokens, each different, so that no prefix is shared."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import floor
from typing import Any, Literal

from ...errors import UsageError
from .server import Prompt, Server

__all__ = ["IdPrompts", "Prompts", "WordPrompts", "choose_prompts", "vocabulary"]

TEXT = """
time people way day man thing woman life child world school state family student group country
problem hand part place case week company system program question work night point home water room
mother area money story fact month lot right study book eye job word business
"""
WORDS = TEXT.split()
FIRST = "The"
SHORTEST = "a"
TRIES = 6
OK = 200
Source = Literal["tokenizer", "server", "words"]
"""Where the tokens are from: a tokenizer here, the server's `/tokenize`, or words."""


@dataclass(frozen=True)
class IdPrompts:
    """Prompts of random token ids.

    Attributes:
        pool: the ids to choose from.
        length: tokens of each prompt.
        source: where the ids are from.
    """

    pool: Sequence[int]
    length: int
    source: Source

    def make(self, seed: str) -> Prompt:
        """The prompt of a seed."""
        return random.Random(seed).choices(self.pool, k=self.length)

    @property
    def counted(self) -> int | None:
        """Tokens of each prompt; None if that is not known."""
        return self.length


@dataclass(frozen=True)
class WordPrompts:
    """Prompts of the same words in random order.

    Tokenizers split text between words before anything else, so that the order does not change the
    number of tokens.

    Attributes:
        words: the number of words.
        padding: the number of words that are `a` and stand at the end.
        counted: tokens of each prompt by the server's count; None if it does not say.
    """

    words: int
    padding: int = 0
    counted: int | None = None
    source: Source = "words"

    def make(self, seed: str) -> Prompt:
        """The prompt of a seed."""
        rest = [WORDS[at % len(WORDS)] for at in range(self.words - 1)]
        random.Random(seed).shuffle(rest)
        return " ".join([FIRST, *rest, *[SHORTEST] * self.padding])


Prompts = IdPrompts | WordPrompts


async def choose_prompts(server: Server, tokenizer: Any | None) -> Prompts:
    """Prompts with the number of tokens that the options ask for, as exactly as possible.

    Args:
        server: what they are for.
        tokenizer: that of the served model, if it is here.

    Raises:
        UsageError: the tokenizer has no ordinary tokens.
        EdgewrightError: the server cannot be reached.
    """
    length = server.options.prompt_tokens
    if server.api == "completions":
        pool = await _server_ids(server) if tokenizer is None else vocabulary(tokenizer)
        prompts = IdPrompts(pool, length, "server" if tokenizer is None else "tokenizer")
        if pool and await server.accepts(prompts.make("probe")):
            return prompts
    return await _matching_words(server, length)


def vocabulary(tokenizer: Any) -> list[int]:
    """The ids of a tokenizer's ordinary tokens.

    Raises:
        UsageError: it has none.
    """
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    pool = sorted(set(tokenizer.get_vocab().values()) - special)
    if not pool:
        raise UsageError("--tokenizer: it has special tokens only", "give that of the served model")
    return pool


async def _server_ids(server: Server) -> list[int]:
    """Token ids of words by `/tokenize` of llama.cpp's server or vLLM; empty if it has none."""
    text = " ".join(WORDS)
    body: dict[str, Any] = {
        "content": text,
        "prompt": text,
        "add_special": False,
        "add_special_tokens": False,
    }
    if server.model:
        body["model"] = server.model
    reply = await server.fetch("POST", f"{server.address.root}/tokenize", body)
    ids = reply.value.get("tokens") if isinstance(reply.value, dict) else None
    if reply.status != OK or not isinstance(ids, list):
        return []
    return sorted({one for one in ids if type(one) is int and 0 <= one < 1 << 31})


async def _matching_words(server: Server, length: int) -> WordPrompts:
    """The number of words that gives a prompt of so many tokens, by the server's own count."""
    best = WordPrompts(length)
    tried: dict[int, int] = {}
    words = length
    while words not in tried and len(tried) < TRIES:
        found = await _counted(server, WordPrompts(words))
        if found.counted is None:
            return best
        tried[words] = found.counted
        best = _nearer(found, best, length)
        words = max(1, words + floor((length - found.counted) / _slope(tried)))
    under = max((one for one, count in tried.items() if count < length), default=0)
    if best.counted != length and under:
        padded = WordPrompts(under, padding=length - tried[under])
        best = _nearer(await _counted(server, padded), best, length)
    return best


async def _counted(server: Server, prompts: WordPrompts) -> WordPrompts:
    return replace(prompts, counted=await server.prompt_tokens(prompts.make("length")))


def _nearer(one: WordPrompts, other: WordPrompts, length: int) -> WordPrompts:
    """Of two kinds of prompts, the one whose count is nearer to a length."""
    if one.counted is None or other.counted is None:
        return one if other.counted is None else other
    return min(one, other, key=lambda each: abs((each.counted or 0) - length))


def _slope(tried: dict[int, int]) -> float:
    """Tokens of a word: from the last two prompts, or from the only one."""
    (words, count), *before = reversed(tried.items())
    if not before:
        return max(count / words, 0.1)
    other, other_count = before[0]
    return max((count - other_count) / (words - other), 0.1)
