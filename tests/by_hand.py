"""Slow, plain readers of what edgewright writes, from the formats' descriptions and not from its code; and losses, unchunked."""

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


def dequantize_awq(parts: Mapping[str, Tensor], outputs: int | None = None) -> Tensor:
    """The weight [out, in] of a layer in the AWQ (GEMM) layout, one int32 word after the other; zeros are stored as they are.

    Args:
        parts: `qweight`, `qzeros` and `scales`.
        outputs: how many of the output channels to read (all, if nothing is said; this is slow).
    """
    shift_of = {
        0: 0,
        1: 16,
        2: 4,
        3: 20,
        4: 8,
        5: 24,
        6: 12,
        7: 28,
    }  # of each of the eight outputs in a word
    words, zero_words, scales = (
        parts["qweight"].tolist(),
        parts["qzeros"].tolist(),
        parts["scales"].float().tolist(),
    )
    inputs, outputs = len(words), outputs or 8 * len(words[0])
    size = inputs // len(scales)
    weight = torch.empty(outputs, inputs)
    for k in range(inputs):
        for n in range(outputs):
            integer = (words[k][n // 8] >> shift_of[n % 8]) & 15
            zero = (zero_words[k // size][n // 8] >> shift_of[n % 8]) & 15
            weight[n, k] = (integer - zero) * scales[k // size][n]
    return weight


def dequantize_int8(parts: Mapping[str, Tensor]) -> Tensor:
    """The weight [out, in] of a layer stored as int8 with a scale an output channel, one number after the other."""
    scales = parts["weight_scale"].flatten().tolist()
    return torch.tensor(
        [
            [value * scale for value in row]
            for row, scale in zip(parts["weight"].tolist(), scales, strict=True)
        ]
    )


def rounded_by_hand(row: list[float], scale: float | None = None) -> list[float]:
    """One token's activations after 8-bit integers, on a scale of its own or on a fixed one."""
    scale = scale or max(abs(x) for x in row) / 127
    return [max(-127, min(127, round(x / scale))) * scale for x in row]


def _integers(words: Sequence[int], bits: int) -> list[int]:
    """The integers of int32 words, which are one long binary number with the lowest word first."""
    number = sum((word & 0xFFFFFFFF) << (32 * i) for i, word in enumerate(words))
    return [(number >> (bits * i)) & (2**bits - 1) for i in range(len(words) * 32 // bits)]


@lru_cache(maxsize=256)
def _zeros(words: tuple[int, ...], bits: int) -> list[int]:
    return _integers(words, bits)


def part_of(state: Mapping[str, Tensor], module: str) -> dict[str, Any]:
    """The tensors of one module: `weight`, or `qweight` and its companions."""
    return {
        k.removeprefix(f"{module}."): v for k, v in state.items() if k.rpartition(".")[0] == module
    }


def logit_kl(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(teacher || student) of whole logits [batch, seq, vocab], mean over what labels [batch, seq] score, times T squared."""
    scored = labels[:, 1:] != -100
    log_q, log_p = (
        (x[:, :-1][scored].float() / temperature).log_softmax(-1) for x in (student, teacher)
    )
    return (log_p.exp() * (log_p - log_q)).sum(-1).mean() * temperature**2
