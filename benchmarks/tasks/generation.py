"""Many prompts answered at a time: like lengths together, so that little of a batch is padding."""

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
"""Prompt and answer tokens of a batch, whose keys and values are all in memory at once."""
TAIL = 16
"""Tokens behind the longest stop string that are decoded to find it, as a token can hold part of a letter."""


def by_length(lengths: Sequence[int], tokens: int, rows: int | None = None) -> Iterator[list[int]]:
    """The positions of the members of each batch, longest first: at most `rows` of them, and `tokens` with their padding, or one."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and (len(batch) == rows or (len(batch) + 1) * lengths[batch[0]] > tokens):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def end_tokens_of(backend: Backend, tokenizer: Any) -> list[int]:
    """The tokens that end an answer: those of the model's generation_config.json, and the tokenizer's own."""
    return all_end_tokens(backend.eos, tokenizer)


def left_padded(prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Ids and mask, int64 [batch, longest], of prompts of several lengths."""
    longest = max(map(len, prompts))
    gaps = [longest - len(prompt) for prompt in prompts]
    ids = torch.tensor(
        [[0] * gap + list(prompt) for gap, prompt in zip(gaps, prompts, strict=True)]
    )
    return ids, torch.tensor([[0] * gap + [1] * (longest - gap) for gap in gaps])


def until_end(tokens: list[int], ends: Sequence[int]) -> list[int]:
    """An answer's tokens before the first that ends it."""
    return tokens[: next((at for at, token in enumerate(tokens) if token in ends), len(tokens))]


def generate_texts(
    backend: Backend,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    eos: Sequence[int],
    ended: Ended | None = None,
    label: str = "solving problems",
) -> list[list[int]]:
    """What the model writes greedily after each prompt, as tokens without the one that ended it, in the order given.

    Args:
        backend: the model.
        prompts: token ids; at least one each.
        max_new_tokens: the longest answer.
        eos: tokens that end an answer.
        ended: whether an answer is complete though no such token was written.
        label: of the progress bar.
    """
    answers: list[list[int]] = [[] for _ in prompts]
    ends = sorted(eos) or [-1]  # no token is -1: the answer goes on to its limit
    with progress(label, len(prompts)) as bar:
        for batch in by_length(
            [len(p) + max_new_tokens for p in prompts], TOKENS_A_BATCH, ROWS_A_BATCH
        ):
            new = backend.generate(
                *left_padded([prompts[i] for i in batch]), max_new_tokens, ends, ended
            )
            for i, row in zip(batch, new.tolist(), strict=True):
                answers[i] = until_end(
                    row, ends
                )  # a row that `ended` stopped is filled up with the first end token
            bar.advance(len(batch))
    return answers


def stops_at(tokenizer: Any, strings: Sequence[str]) -> Ended | None:
    """A test whether an answer holds one of some strings; only its last tokens are looked at, as it is asked after each one."""
    wanted = [string for string in strings if string]
    if not wanted:
        return None
    reach = (
        max(len(tokenizer(string, add_special_tokens=False)["input_ids"]) for string in wanted)
        + TAIL
    )

    def ended(tokens: Sequence[int]) -> bool:
        text = tokenizer.decode(list(tokens[-reach:]), skip_special_tokens=False)
        return any(string in text for string in wanted)

    return ended
