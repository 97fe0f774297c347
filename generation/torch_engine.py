"""Generation with a model of transformers: stock modules, and a cache that is written in place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..models import Architecture
from .grouped_attention import use_grouped_attention
from .memory import chunk_tokens, rows_within
from .schedule import groups_within
from .slot_cache import Place, SlotCache, StoredStates

__all__ = ["TorchEngine"]


class TorchEngine:
    """A causal language model in torch; see `Engine`.

    Args:
        model: transformers' model, in evaluation mode.
        architecture: of the model.
        stored: rounds keys and values before they are cached; None: they are not rounded.
    """

    def __init__(
        self, model: Any, architecture: Architecture, stored: StoredStates | None = None
    ) -> None:
        use_grouped_attention(model)
        self._model = model
        self._architecture = architecture
        self._stored = stored
        self._like: Tensor = model.get_input_embeddings().weight

    def rows_for(self, positions: int, prompts: int) -> int:
        """See `Engine.rows_for`."""
        position_bytes = self._architecture.state_bytes(1, element_bytes=self._like.itemsize)
        return rows_within(positions, position_bytes, self._architecture.vocab_size, prompts)

    def slots(self, rows: int, positions: int) -> _TorchSlots:
        """See `Engine.slots`."""
        cache = SlotCache(self._architecture, rows, positions, self._like, self._stored)
        return _TorchSlots(self._model, self._architecture, cache)


class _TorchSlots:
    """See `Slots`."""

    def __init__(self, model: Any, architecture: Architecture, cache: SlotCache) -> None:
        self._model = model
        self._cache = cache
        self._device: torch.device = model.device
        self._windows = [layer.attention.window for layer in architecture.layers]
        self._vocabulary = architecture.vocab_size
        self._lengths: list[int] = []
        self._shared: list[tuple[Tensor, Tensor]] = []

    def share(self, tokens: Sequence[int]) -> None:
        """See `Slots.share`."""
        self.append([tokens])
        self._shared = self._cache.states(0, len(tokens))
        self.retire([], 0)

    @torch.inference_mode()
    def append(self, prompts: Sequence[Sequence[int]]) -> None:
        """See `Slots.append`."""
        most = chunk_tokens(self._vocabulary, whole_logits=False)
        known = self._shared[0][0].shape[1] if self._shared else 0
        for group in groups_within(prompts, most):
            first = len(self._lengths)
            self._lengths += map(len, group)
            rows = slice(first, len(self._lengths))
            width = max(map(len, group))
            ids = torch.tensor([[*ids, *[0] * (width - len(ids))] for ids in group])
            chunk = max(1, most // len(group))
            if self._shared:
                self._cache.fill(rows, self._shared)
            for begin in range(known, width, chunk):
                end = min(begin + chunk, width)
                positions = torch.arange(begin, end).expand(len(group), -1)
                self._forward(ids[:, begin:end], positions, Place(rows, slice(begin, end), end))

    @torch.inference_mode()
    def step(self, tokens: Sequence[int]) -> Tensor:
        """See `Slots.step`."""
        lengths = torch.tensor(self._lengths)
        place = Place(slice(0, len(tokens)), lengths.to(self._device), max(self._lengths) + 1)
        logits = self._forward(torch.tensor(tokens)[:, None], lengths[:, None], place)
        self._lengths = [length + 1 for length in self._lengths]
        return logits

    def retire(self, moves: Sequence[tuple[int, int]], count: int) -> None:
        """See `Slots.retire`."""
        if moves:
            with torch.inference_mode():
                self._cache.move(moves, max(self._lengths))
        for source, target in moves:
            self._lengths[target] = self._lengths[source]
        del self._lengths[count:]

    def _forward(self, ids: Tensor, positions: Tensor, place: Place) -> Tensor:
        """One pass of the model; returns the logits of the last column, float32 [rows, vocab]."""
        self._cache.place = place
        positions = positions.to(self._device)
        return (
            self._model(
                input_ids=ids.to(self._device),
                position_ids=positions,
                attention_mask=self._masks(positions, place.end),
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=1,
            )
            .logits[:, -1]
            .float()
        )

    def _masks(self, positions: Tensor, end: int) -> Tensor | dict[str, Tensor]:
        """What is added to the scores, [rows, 1, tokens, end].

        If layers have different windows, one such mask for each of transformers' layer types.
        """
        dtype = self._model.dtype
        masks = {
            window: _mask(positions, end, window, dtype) for window in dict.fromkeys(self._windows)
        }
        if len(masks) == 1:
            return masks[self._windows[0]]
        kinds = zip(self._model.config.layer_types, self._windows, strict=True)
        return {kind: masks[window] for kind, window in kinds}


def _mask(positions: Tensor, end: int, window: int, dtype: torch.dtype) -> Tensor:
    """A token sees the columns up to its own; with a window, only so many of the last ones."""
    columns = torch.arange(end, device=positions.device)
    own = positions[:, None, :, None]
    hidden = columns > own
    if window:
        hidden |= columns <= own - window
    zeros = torch.zeros(hidden.shape, dtype=dtype, device=positions.device)
    return zeros.masked_fill_(hidden, torch.finfo(dtype).min)
