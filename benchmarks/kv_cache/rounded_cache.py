"""A KV cache that holds what low-bit keys and values would stand for, so that the cost of them can be measured in torch.

Keys are rounded as they are cached, after the rotation by position, and every later token attends to the rounded ones, itself included:
as an engine with such a cache computes. Symmetric, one scale a key/value head: fixed, from the largest value seen in calibration,
or dynamic, from each token's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from ...models import Architecture
from ..tasks.backends import TorchBackend

__all__ = [
    "CacheBackend",
    "HeadScales",
    "KvScheme",
    "cache_bytes",
    "calibrated_scales",
    "round_states",
]

SMALLEST_SCALE = 2.0**-24
SCALE_BYTES = 2


@dataclass(frozen=True)
class KvScheme:
    """How keys and values are held; 16 bits are not rounded at all."""

    bits: int = 16
    dynamic: bool = True
    """A scale for every token and head; else one for every head."""

    @property
    def name(self) -> str:
        """As in `int8-dynamic`."""
        return (
            "fp16"
            if self.bits == 16
            else f"int{self.bits}-{'dynamic' if self.dynamic else 'static'}"
        )


HeadScales = list[tuple[Tensor, Tensor]]
"""Of every layer, the largest |key| and |value| of each key/value head, float32 [heads]."""


def round_states(states: Tensor, bits: int, largest: Tensor | None = None) -> Tensor:
    """Keys or values as `bits` signed bits hold them, in the dtype they came in; scales are float16.

    Args:
        states: [batch, heads, tokens, head_dim].
        bits: of an integer; the range is symmetric, so that 8 bits reach from -127 to 127.
        largest: the largest absolute value of each head, [heads]; what is beyond is clipped. None: each token's own.
    """
    top = 2 ** (bits - 1) - 1
    absolute = (
        states.float().abs().amax(-1, keepdim=True)
        if largest is None
        else largest.view(1, -1, 1, 1).float()
    )
    scales = (absolute / top).half().float().clamp_min(SMALLEST_SCALE)
    return ((states.float() / scales).round().clamp(-top, top) * scales).to(states.dtype)


class _RoundingCache(DynamicCache):
    def __init__(self, config: Any, scheme: KvScheme, largest: HeadScales | None) -> None:
        super().__init__(config=config)
        self._scheme, self._largest = scheme, largest

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        keys, values = self._largest[layer_idx] if self._largest else (None, None)
        bits = self._scheme.bits
        if bits < 16:
            key_states, value_states = (
                round_states(key_states, bits, keys),
                round_states(value_states, bits, values),
            )
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)


class _WatchingCache(DynamicCache):
    """Notes the largest value of every head."""

    def __init__(self, config: Any, largest: dict[int, tuple[Tensor, Tensor]]) -> None:
        super().__init__(config=config)
        self._largest = largest

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        now = key_states.float().abs().amax((0, 2, 3)), value_states.float().abs().amax((0, 2, 3))
        old = self._largest.get(layer_idx, now)
        self._largest[layer_idx] = torch.maximum(old[0], now[0]), torch.maximum(old[1], now[1])
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)


@torch.no_grad()
def calibrated_scales(model: Any, rows: Sequence[Tensor]) -> HeadScales:
    """The largest key and value of every head over ids, each row int64 [tokens]."""
    largest: dict[int, tuple[Tensor, Tensor]] = {}
    device = next(model.parameters()).device
    for ids in rows:
        model(
            input_ids=ids.unsqueeze(0).to(device),
            past_key_values=_WatchingCache(model.config, largest),
            use_cache=True,
        )
    return [largest[i] for i in range(len(largest))]


class CacheBackend(TorchBackend):
    """A loaded checkpoint run by transformers with a cache whose keys and values are rounded.

    Args:
        plain: the checkpoint; its model is shared.
        scheme: how keys and values are held.
        largest: of every layer and head, as `calibrated_scales` gives it; needed unless the scheme is dynamic.
    """

    def __init__(self, plain: TorchBackend, scheme: KvScheme, largest: HeadScales) -> None:
        self.model, self.device, self.dtype, self.eos = (
            plain.model,
            plain.device,
            plain.dtype,
            plain.eos,
        )
        self.scheme, self.largest = scheme, None if scheme.dynamic else largest

    def _cache(self) -> _RoundingCache:
        return _RoundingCache(self.model.config, self.scheme, self.largest)

    @torch.no_grad()
    def logits(self, ids: Tensor, mask: Tensor) -> Tensor:
        """See `Backend.logits`."""
        positions = (mask.cumsum(-1) - 1).clamp_min(0)
        inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
        on_device = {name: tensor.to(self.device) for name, tensor in inputs.items()}
        return (
            self.model(**on_device, past_key_values=self._cache(), use_cache=True)
            .logits.float()
            .cpu()
        )


def cache_bytes(architecture: Architecture, scheme: KvScheme, context: int) -> int:
    """Bytes of keys and values of one sequence, with their scales; layers with a window hold no more than that.

    Args:
        architecture: of the model.
        scheme: how they are held.
        context: tokens.
    """
    elements = architecture.state_elements(context) * scheme.bits // 8
    if scheme.bits == 16:
        return elements
    attentions = [layer.attention for layer in architecture.layers]
    scales = sum(
        attention.state_vectors(context if scheme.dynamic else 1) for attention in attentions
    )
    return elements + scales * SCALE_BYTES
