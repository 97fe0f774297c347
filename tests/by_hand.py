"""Slow, plain readers of packed weights, and a loss without chunks, to compare edgewright with.

They follow the descriptions of the formats, not edgewright's code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor


def dequantize_gptq(parts: Mapping[str, Tensor], bits: int, outputs: int | None = None) -> Tensor:
    """The weight [out, in] of a layer in the GPTQ layout; the zero point is the stored one plus 1.

    Args:
        parts: `qweight`, `qzeros`, `scales` and `g_idx`.
        bits: bits of an integer.
        outputs: how many of the output channels to read; None for all, which is slow.
    """
    words = parts["qweight"].tolist()
    zero_words = parts["qzeros"].tolist()
    scales = parts["scales"].float().tolist()
    group_of = parts["g_idx"].tolist()
    inputs = len(words) * 32 // bits
    outputs = outputs or len(words[0])
    weight = torch.empty(outputs, inputs)
    for n in range(outputs):
        integers = _integers([row[n] for row in words], bits)
        for k in range(inputs):
            zeros = _zeros(tuple(zero_words[group_of[k]]), bits)
            weight[n, k] = (integers[k] - (zeros[n] + 1)) * scales[group_of[k]][n]
    return weight


def dequantize_awq(parts: Mapping[str, Tensor], outputs: int | None = None) -> Tensor:
    """The weight [out, in] of a layer in the AWQ (GEMM) layout; zero points are stored as they are.

    Args:
        parts: `qweight`, `qzeros` and `scales`.
        outputs: how many of the output channels to read; None for all, which is slow.
    """
    shift_of = (0, 16, 4, 20, 8, 24, 12, 28)  # of each of the eight outputs in a word
    words = parts["qweight"].tolist()
    zero_words = parts["qzeros"].tolist()
    scales = parts["scales"].float().tolist()
    inputs = len(words)
    outputs = outputs or 8 * len(words[0])
    size = inputs // len(scales)
    weight = torch.empty(outputs, inputs)
    for k in range(inputs):
        for n in range(outputs):
            integer = (words[k][n // 8] >> shift_of[n % 8]) & 15
            zero = (zero_words[k // size][n // 8] >> shift_of[n % 8]) & 15
            weight[n, k] = (integer - zero) * scales[k // size][n]
    return weight


def dequantize_int8(parts: Mapping[str, Tensor]) -> Tensor:
    """The weight [out, in] of a layer stored as int8 with one scale for each output channel."""
    scales = parts["weight_scale"].flatten().tolist()
    return torch.tensor(
        [
            [value * scale for value in row]
            for row, scale in zip(parts["weight"].tolist(), scales, strict=True)
        ]
    )


def rounded_by_hand(row: list[float], scale: float | None = None) -> list[float]:
    """One token's activations rounded to 8-bit integers, with its own scale or a fixed one."""
    scale = scale or max(abs(x) for x in row) / 127
    return [max(-127, min(127, round(x / scale))) * scale for x in row]


def _integers(words: Sequence[int], bits: int) -> list[int]:
    """The integers in int32 words, read as one long binary number with the lowest word first."""
    number = sum((word & 0xFFFFFFFF) << (32 * i) for i, word in enumerate(words))
    return [(number >> (bits * i)) & (2**bits - 1) for i in range(len(words) * 32 // bits)]


@lru_cache(maxsize=256)
def _zeros(words: tuple[int, ...], bits: int) -> list[int]:
    return _integers(words, bits)


def part_of(state: Mapping[str, Tensor], module: str) -> dict[str, Any]:
    """The tensors of one module: `weight`, or `qweight` with scales and zero points."""
    return {
        k.removeprefix(f"{module}."): v for k, v in state.items() if k.rpartition(".")[0] == module
    }


def logit_kl(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(teacher || student) of logits [batch, seq, vocab], times the squared temperature.

    The mean is over the tokens that labels [batch, seq] score (those that are not -100).
    """
    scored = labels[:, 1:] != -100
    log_q, log_p = (
        (x[:, :-1][scored].float() / temperature).log_softmax(-1) for x in (student, teacher)
    )
    return (log_p.exp() * (log_p - log_q)).sum(-1).mean() * temperature**2
