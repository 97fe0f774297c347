"""Slow, plain readers of what edgewright writes, from the formats' descriptions and not from its code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor


def dequantize_gptq(parts: Mapping[str, Tensor], bits: int, outputs: int | None = None) -> Tensor:
    """The weight [out, in] of a layer in the GPTQ layout, one int32 word after the other; zero = stored + 1.

    Args:
        parts: `qweight`, `qzeros`, `scales` and `g_idx`.
        bits: bits of an integer.
        outputs: how many of the output channels to read (all, if nothing is said; this is slow).
    """
    words, zero_words = parts["qweight"].tolist(), parts["qzeros"].tolist()
    scales, group_of = parts["scales"].float().tolist(), parts["g_idx"].tolist()
    inputs, outputs = len(words) * 32 // bits, outputs or len(words[0])
    weight = torch.empty(outputs, inputs)
    for n in range(outputs):
        integers = _integers([row[n] for row in words], bits)
        for k in range(inputs):
            zeros = _zeros(tuple(zero_words[group_of[k]]), bits)
            weight[n, k] = (integers[k] - (zeros[n] + 1)) * scales[group_of[k]][n]
    return weight


def _integers(words: Sequence[int], bits: int) -> list[int]:
    """The integers of int32 words, which are one long binary number with the lowest word first."""
    number = sum((word & 0xFFFFFFFF) << (32 * i) for i, word in enumerate(words))
    return [(number >> (bits * i)) & (2**bits - 1) for i in range(len(words) * 32 // bits)]


@lru_cache(maxsize=256)
def _zeros(words: tuple[int, ...], bits: int) -> list[int]:
    return _integers(words, bits)


def part_of(state: Mapping[str, Tensor], module: str) -> dict[str, Any]:
    """The tensors of one module: `weight`, or `qweight` and its companions."""
    return {k.removeprefix(f"{module}."): v for k, v in state.items() if k.rpartition(".")[0] == module}
