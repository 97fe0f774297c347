"""Where the keys and values of an engine lie: the arithmetic, without the device.

A graph takes the past of every layer, [batch, kv_heads, slots, head_dim], and gives past and new
positions together, in memory of its own. The past has a number of slots of which the first one is
never used (an empty past would be an empty tensor, and nobody has confirmed that Orin takes those).

Two ways to go on from there:

* With gaps: the past has one of a few numbers of slots (`rooms`), most of them still empty and
  hidden by the mask. Only the new positions are copied, behind those before them. So shapes and
  addresses stay as they are from token to token, and a CUDA graph can replay the step.
* Without gaps: what a step gives is the past of the next one, and past and present change places.
  Every step has other shapes, so nothing can be replayed. Layers with a window need this: they
  count the distance of two tokens in slots.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

__all__ = ["Layout", "Slots", "rooms"]

ALIGNMENT = 256
"""Bytes that the address of every tensor must be a multiple of (`IExecutionContext`)."""
SMALLEST_ROOM = 256


@dataclass(frozen=True)
class Layout:
    """Keys and values of all layers in one piece of memory: [tensors, rows, slots, vector].

    There are more rows than batch x kv_heads if the next tensor would not be aligned otherwise.

    Attributes:
        tensors: keys and values of all layers.
        used_rows: batch x kv_heads.
        vector: bytes of a vector of head_dim.
    """

    tensors: int
    used_rows: int
    vector: int

    @property
    def rows(self) -> int:
        """Rows of a tensor, with those that only align the next one."""
        step = ALIGNMENT // gcd(ALIGNMENT, self.vector)
        return -(-self.used_rows // step) * step

    def offset(self, tensor: int, slots: int) -> int:
        """Where a tensor begins."""
        return tensor * self.rows * slots * self.vector

    def size(self, slots: int) -> int:
        """Bytes of everything."""
        return self.offset(self.tensors, slots)


def rooms(longest: int, prefill: int) -> tuple[int, ...]:
    """Numbers of slots that a past with gaps may have.

    Args:
        longest: most slots of the past of one token.
        prefill: most slots of the past of a pass over several tokens.
    """
    found = {longest, prefill} if prefill > 1 else {longest}
    size = SMALLEST_ROOM
    while size < longest:
        found.add(size)
        size *= 2
    return tuple(sorted(found))


class Slots:
    """How many slots of a past are filled, and what a step does to it.

    Args:
        rooms: see `rooms`; empty: without gaps, up to `longest`.
        longest: most slots of a past.

    Attributes:
        length: positions in the cache.
        room: slots of the past of the next step. The first is not used.
    """

    def __init__(self, rooms: tuple[int, ...], longest: int) -> None:
        self.length = 0
        self.room = 1
        self._rooms = rooms
        self._longest = longest

    @property
    def used(self) -> int:
        """Slots up to the last one that is filled."""
        return self.length + 1

    def add(self, count: int) -> bool:
        """Count new positions; returns whether a further step can follow."""
        self.length += count
        if self.used > self._longest:
            return False
        if not self._rooms:
            self.room = self.used
        elif self.used > self.room:
            self.room = next(room for room in self._rooms if room >= self.used)
        return True
