"""Generate answers to many prompts, up to what ends them; and batches of rows of similar length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ...checkpoints.tokenizer import all_end_tokens
from ...console import console, progress
from ...generation.decoding import Answered, Decoding, Ended, until_end
from .backends import Backend
from .kept_answers import KeptAnswers

__all__ = ["answer_prompts", "by_length", "end_tokens_of", "generate_texts", "stops_at"]

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
    answered: Answered | None = None,
    label: str = "solving problems",
) -> list[list[int]]:
    """Continue each prompt greedily.

    Args:
        backend: the model.
        prompts: token ids; at least one in each.
        max_new_tokens: the most tokens of an answer.
        eos: tokens that end an answer.
        ended: also ends an answer, if it returns true for the tokens so far.
        answered: is told each finished answer, without the token that ended it.
        label: text of the progress bar.

    Returns:
        The tokens of the answers in the order of the prompts, without the token that ended them.
    """

    def told(number: int, tokens: Sequence[int]) -> None:
        if answered:
            answered(number, until_end(tokens, eos))

    decoding = Decoding(max_new_tokens, eos, ended, answered=told)
    with progress(label, len(prompts)) as bar:
        written = backend.generate(prompts, decoding, bar)
    return [until_end(tokens, eos) for tokens in written]


def answer_prompts(
    backend: Backend,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    stops: Sequence[str],
    kept: KeptAnswers | None = None,
    label: str = "solving problems",
) -> list[list[int]]:
    """Continue each prompt greedily, unless an interrupted measurement did so before.

    Args:
        backend: the model.
        tokenizer: its tokenizer.
        prompts: token ids; at least one in each.
        max_new_tokens: the most tokens of an answer.
        stops: texts that end an answer.
        kept: answers of the interrupted measurement; new ones are added as they are finished.
        label: text of the progress bar.

    Returns:
        As `generate_texts`.
    """
    ends = end_tokens_of(backend, tokenizer)
    ended = stops_at(tokenizer, stops)
    if kept is None:
        return generate_texts(backend, prompts, max_new_tokens, ends, ended, label=label)
    keys = [kept.key(prompt, max_new_tokens, stops) for prompt in prompts]
    left = [i for i, key in enumerate(keys) if kept.find(key) is None]
    if len(left) < len(prompts):
        console.print(
            f"  resumed: {len(prompts) - len(left)} of {len(prompts)} answers were written by an "
            "interrupted run",
            highlight=False,
        )

    def answered(number: int, tokens: Sequence[int]) -> None:
        kept.put(keys[left[number]], tokens)

    asked = [prompts[i] for i in left]
    written = generate_texts(backend, asked, max_new_tokens, ends, ended, answered, label)
    new = dict(zip(left, written, strict=True))
    return [new[i] if i in new else kept.find(key) or [] for i, key in enumerate(keys)]


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
