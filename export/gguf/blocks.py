"""Packed weights as blocks of llama.cpp, bit for bit, so that nothing is rounded twice.

A block has 32 inputs and a scale of its own, so the scale of a larger group is repeated.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...checkpoints.layouts import PackedLinear
from ...models.formats.gguf import FORMAT

__all__ = ["BLOCK", "block_kind", "packed_blocks"]

BLOCK = FORMAT.block
"""Inputs of a block."""


def block_kind(packed: PackedLinear) -> str | None:
    """llama.cpp's name of the blocks that hold a packed weight; None: there are none.

    Q4_0 holds (nibble - 8) x scale, Q4_1 nibble x scale + minimum, Q8_0 a signed byte x scale.
    """
    if packed.g_idx is not None or packed.group_size % BLOCK:
        return None
    if packed.bits == 4:
        return "Q4_0" if packed.sym else "Q4_1"
    return "Q8_0" if packed.bits == 8 and packed.sym else None


def packed_blocks(packed: PackedLinear) -> NDArray[np.uint8]:
    """The blocks of a packed weight, uint8 [out, bytes]; see `block_kind`.

    A block begins with its scale in fp16. The minimum of Q4_1 follows, minus the zero point times
    the scale, also in fp16. The lower nibbles are the first 16 inputs.
    """
    rows = packed.integers.numpy()
    integers: NDArray[np.uint8] = rows.reshape(len(rows), -1, BLOCK)
    sides = [_half(packed, packed.scales.numpy())]
    if packed.bits == 8:
        return _joined(
            sides, np.bitwise_xor(integers, np.uint8(0x80))
        )  # from unsigned around 128 to two's complement
    if not packed.sym:
        sides.append(_half(packed, -packed.zeros.float().mul(packed.scales).numpy()))
    low, high = integers[..., : BLOCK // 2], integers[..., BLOCK // 2 :]
    return _joined(sides, np.bitwise_or(low, np.left_shift(high, np.uint8(4))))


def _half(packed: PackedLinear, values: NDArray[Any]) -> NDArray[np.float16]:
    """A value of each group [out, groups] for each block [out, blocks, 1]."""
    return values.astype(np.float16).repeat(packed.group_size // BLOCK, 1)[..., None]


def _joined(sides: list[NDArray[np.float16]], data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    blocks = np.concatenate([*(side.view(np.uint8) for side in sides), data], -1)
    return np.ascontiguousarray(blocks.reshape(len(data), -1), np.uint8)
