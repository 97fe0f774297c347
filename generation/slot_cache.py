"""A KV cache for transformers' models with one slot for each row, written in place.

Position p of a row is column p of its slot. So rows of different lengths need no padding, and a
token is written without copying what is there. Columns behind a row's last position hold what
padding or an earlier row left there; masks hide them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

from ..models import Architecture

__all__ = ["Place", "SlotCache", "StoredStates"]

StoredStates = Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]]
"""What the cache stores of the keys and values of a layer, each [rows, heads, tokens, head_dim]."""


@dataclass(frozen=True)
class Place:
    """Where a forward pass writes, and what it reads.

    Attributes:
        rows: slots of the pass.
        columns: the columns that all rows write, or the column that each row writes, int64 [rows].
        end: columns before this one are read.
    """

    rows: slice
    columns: slice | Tensor
    end: int


class SlotCache(Cache):
    """Keys and values of several rows.

    Args:
        architecture: of the model.
        rows: number of slots.
        positions: columns of a slot.
        like: a tensor of the dtype and on the device that the cache gets.
        stored: rounds keys and values before they are stored; None: they are not rounded.

    Attributes:
        place: where the next forward pass writes.
    """

    def __init__(
        self,
        architecture: Architecture,
        rows: int,
        positions: int,
        like: Tensor,
        stored: StoredStates | None = None,
    ) -> None:
        self.place = Place(slice(0, 0), slice(0, 0), 0)
        self.stored = stored
        sizes = [layer.attention.sizes for layer in architecture.layers]
        self._slots = [
            _Layer(self, index, like.new_zeros(2, rows, one.kv_heads, positions, one.head_dim))
            for index, one in enumerate(sizes)
        ]
        super().__init__(layers=list(self._slots))

    def states(self, row: int, end: int) -> list[tuple[Tensor, Tensor]]:
        """A copy of a slot up to column `end`: keys and values of each layer, [heads, end, dim]."""
        return [
            (keys[row, :, :end].clone(), values[row, :, :end].clone())
            for keys, values in self._states()
        ]

    def fill(self, rows: slice, states: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Write such a copy into the first columns of slots."""
        for slots, copies in zip(self._states(), states, strict=True):
            for slot, copy in zip(slots, copies, strict=True):
                slot[rows, :, : copy.shape[1]] = copy

    def _states(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Keys and values of each layer, [rows, heads, positions, head_dim]."""
        for layer in self._slots:
            assert layer.keys is not None and layer.values is not None
            yield layer.keys, layer.values

    def move(self, moves: Sequence[tuple[int, int]], end: int) -> None:
        """Copy slots `(source, target)` up to column `end`."""
        for slots in self._states():
            for source, target in moves:
                for states in slots:
                    states[target, :, :end] = states[source, :, :end]


class _Layer(CacheLayerMixin):
    """The slots of one layer; `states` is [2, rows, heads, positions, head_dim], 0 at first."""

    def __init__(self, cache: SlotCache, index: int, states: Tensor) -> None:
        super().__init__()
        self._cache = cache
        self._index = index
        self.keys, self.values = states
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing is left to do."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write new keys and values, and return all that the rows of the pass may read."""
        place = self._cache.place
        if self._cache.stored:
            key_states, value_states = self._cache.stored(self._index, key_states, value_states)
        seen: list[Tensor] = []
        for states, new in ((self.keys, key_states), (self.values, value_states)):
            assert states is not None
            rows = states[place.rows]
            if isinstance(place.columns, slice):
                rows[:, :, place.columns] = new
            else:
                rows[torch.arange(len(rows), device=rows.device), :, place.columns] = new[:, :, 0]
            seen.append(rows[:, :, : place.end])
        return seen[0], seen[1]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of the keys, for masks that transformers makes itself."""
        return self._cache.place.end, 0

    def get_seq_length(self) -> int:
        """Columns that are read."""
        return self._cache.place.end

    def get_max_length(self) -> int:
        """Columns of a slot."""
        assert self.keys is not None
        return self.keys.shape[2]

    def get_max_cache_shape(self) -> int:
        """The same, by its name in the first releases of transformers 5."""
        return self.get_max_length()
