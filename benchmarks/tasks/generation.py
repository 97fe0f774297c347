"""Generate answers to many prompts in batches of similar length, which saves padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ...checkpoints.loading import all_end_tokens
from ...console import progress
from .backends import Backend, Ended

__all__ = [
    "ROWS_A_BATCH",
    "TOKENS_A_BATCH",
    "by_length",
    "end_tokens_of",
    "generate_texts",
    "left_padded",
    "stops_at",
    "until_end",
]

ROWS_A_BATCH = 64
TOKENS_A_BATCH = 2**15
"""The most tokens of a batch, prompts and answers together: all their keys and values are in memory
at the same time."""
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


def left_padded(prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Ids and mask, int64 [batch, longest], of prompts of different lengths, padded on the left."""
    longest = max(map(len, prompts))
    gaps = [longest - len(prompt) for prompt in prompts]
    ids = torch.tensor(
        [[0] * gap + list(prompt) for gap, prompt in zip(gaps, prompts, strict=True)]
    )
    return ids, torch.tensor([[0] * gap + [1] * (longest - gap) for gap in gaps])


def until_end(tokens: list[int], ends: Sequence[int]) -> list[int]:
    """The tokens of an answer before the first one that ends it."""
    return tokens[: next((at for at, token in enumerate(tokens) if token in ends), len(tokens))]


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
    answers: list[list[int]] = [[] for _ in prompts]
    ends = sorted(eos) or [-1]  # -1 never occurs, so answers continue to the limit
    with progress(label, len(prompts)) as bar:
        for batch in by_length(
            [len(p) + max_new_tokens for p in prompts], TOKENS_A_BATCH, ROWS_A_BATCH
        ):
            new = backend.generate(
                *left_padded([prompts[i] for i in batch]), max_new_tokens, ends, ended
            )
            for i, row in zip(batch, new.tolist(), strict=True):
                # `generate` fills rows that `ended` stopped with the first end token.
                answers[i] = until_end(row, ends)
            bar.advance(len(batch))
    return answers


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
