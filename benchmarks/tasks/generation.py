"""Generate answers to many prompts, up to what ends them; and batches of rows of similar length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ...checkpoints.tokenizer import all_end_tokens
from ...console import progress
from ...generation.decoding import Decoding, Ended, until_end
from .backends import Backend

__all__ = ["by_length", "end_tokens_of", "generate_texts", "stops_at"]

TAIL = 16
"""How many more tokens than the longest stop string are decoded to find it. A token can contain
part of a letter, so the first decoded ones may be unreadable."""


def by_length(lengths: Sequence[int], tokens: int, rows: int | None = None) -> Iterator[list[int]]:
    """Yield the positions of the members of each batch, longest first.

    Args:
        lengths: length of each member in tokens.
        tokens: the most tokens of a batch, including padding; a longer member is alone.
        rows: the most members of a batch.
    """
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and (len(batch) == rows or (len(batch) + 1) * lengths[batch[0]] > tokens):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def end_tokens_of(backend: Backend, tokenizer: Any) -> list[int]:
    """The tokens that end an answer: those of generation_config.json, and the tokenizer's own."""
    return all_end_tokens(backend.eos, tokenizer)


def generate_texts(
    backend: Backend,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    eos: Sequence[int],
    ended: Ended | None = None,
    label: str = "solving problems",
) -> list[list[int]]:
    """Continue each prompt greedily.

    Args:
        backend: the model.
        prompts: token ids; at least one in each.
        max_new_tokens: the most tokens of an answer.
        eos: tokens that end an answer.
        ended: also ends an answer, if it returns true for the tokens so far.
        label: text of the progress bar.

    Returns:
        The tokens of the answers in the order of the prompts, without the token that ended them.
    """
    with progress(label, len(prompts)) as bar:
        written = backend.generate(prompts, Decoding(max_new_tokens, eos, ended), bar)
    return [until_end(tokens, eos) for tokens in written]


def stops_at(tokenizer: Any, strings: Sequence[str]) -> Ended | None:
    """A function that checks whether an answer contains one of these strings, or None without any.

    It looks only at the last tokens, because it is called after each new one.
    """
    stops = [string for string in strings if string]
    if not stops:
        return None
    reach = (
        max(len(tokenizer(string, add_special_tokens=False)["input_ids"]) for string in stops)
        + TAIL
    )

    def ended(tokens: Sequence[int]) -> bool:
        text = tokenizer.decode(list(tokens[-reach:]), skip_special_tokens=False)
        return any(string in text for string in stops)

    return ended
