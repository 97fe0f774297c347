"""Round weights as they are exported: symmetric, with a scale for each block of inputs."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ...checkpoints.layouts import PackedLinear
from ...errors import Refused

__all__ = ["rounded"]

CHUNK = 1 << 15
"""Weights rounded at a time, which bounds the memory. Torch computes so few in one thread: with
several, so many short operations wait for each other on a busy machine."""
TOP = {4: 7.5, 8: 127.0}
"""By bits, the size of the largest weight of a block in steps, before the search."""
SHRINKING = {4: (1.0, 0.92, 0.85, 0.78, 0.7), 8: (1.0,)}
"""By bits, the factors of the scale that are tried; that with the least squared error is taken."""


def rounded(weight: torch.Tensor, name: str, bits: int, blocks: Sequence[int]) -> PackedLinear:
    """Round a weight to symmetric integers.

    Args:
        weight: [out, in], of any floating-point type.
        name: its name, for the message.
        bits: 4 or 8.
        blocks: block sizes in order of preference; the first that divides `in` is used.

    Raises:
        Refused: no block size divides the number of inputs.
    """
    outputs, width = weight.shape
    block = next((size for size in blocks if width % size == 0), 0)
    if not block:
        raise Refused(
            f"{name}: {width} inputs do not divide into blocks of 16",
            "prune to a multiple of 16, or --format onnx",
        )
    integers = torch.empty(outputs, width, dtype=torch.uint8)
    scales = torch.empty(outputs, width // block)
    rows = max(1, CHUNK // width)
    for begin in range(0, outputs, rows):
        chunk = slice(begin, begin + rows)
        integers[chunk], scales[chunk] = _rounded_rows(weight[chunk].float(), bits, block)
    zeros = torch.full(scales.shape, 2 ** (bits - 1), dtype=torch.uint8)
    return PackedLinear(integers, scales, zeros, bits, block)


def _rounded_rows(weight: torch.Tensor, bits: int, block: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Integers, uint8 [out, in], and scales, float32 [out, in / block], of some rows."""
    groups = weight.view(len(weight), -1, block)
    middle = 2 ** (bits - 1)

    def steps(scales: torch.Tensor) -> torch.Tensor:
        return (groups / scales).round_().clamp_(-middle, middle - 1)

    peaks = groups.abs().amax(-1, keepdim=True).clamp_min(1e-12)
    tried = [peaks * factor / TOP[bits] for factor in SHRINKING[bits]]
    scales = tried[0]
    if len(tried) > 1:
        errors = [
            steps(each).mul_(each).sub_(groups).square_().sum(-1, keepdim=True) for each in tried
        ]
        best = torch.stack(errors).argmin(0, keepdim=True)
        scales = torch.stack(tried).gather(0, best)[0]
    integers = steps(scales).add_(middle).to(torch.uint8)
    return integers.view_as(weight), scales.squeeze(-1)
