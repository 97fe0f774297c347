"""A KV cache in torch whose keys and values are rounded to few bits, to measure the loss.

Keys are rounded when they are cached, after the rotary embedding. All later tokens attend to the
rounded keys, and a token attends to its own rounded key too. An engine with such a cache computes
the same. Rounding is symmetric, with a scale for each key/value head. A static scale comes from
the largest value in calibration, a dynamic scale from the values of each token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from ...generation.generate import Engine
from ...generation.slot_cache import StoredStates
from ...generation.torch_engine import TorchEngine
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
    """How keys and values are stored. With 16 bits they are not rounded."""

    bits: int = 16
    dynamic: bool = True
    """Whether each token and head has its own scale; otherwise each head has one."""

    @property
    def name(self) -> str:
        """A name such as `int8-dynamic`."""
        return (
            "fp16"
            if self.bits == 16
            else f"int{self.bits}-{'dynamic' if self.dynamic else 'static'}"
        )


HeadScales = list[tuple[Tensor, Tensor]]
"""For each layer: the largest |key| and |value| of each key/value head, float32 [heads]."""


def round_states(states: Tensor, bits: int, largest: Tensor | None = None) -> Tensor:
    """Keys or values rounded to `bits` signed bits, in their own dtype. Scales are float16.

    Args:
        states: [batch, heads, tokens, head_dim].
        bits: bits of an integer. The range is symmetric: 8 bits are -127 to 127.
        largest: the largest absolute value of each head, [heads]; larger values are clipped. None
            for the largest value of each token.
    """
    top = 2 ** (bits - 1) - 1
    absolute = (
        states.float().abs().amax(-1, keepdim=True)
        if largest is None
        else largest.view(1, -1, 1, 1).float()
    )
    scales = (absolute / top).half().float().clamp_min(SMALLEST_SCALE)
    return ((states.float() / scales).round().clamp(-top, top) * scales).to(states.dtype)


@dataclass(frozen=True)
class _Rounding:
    """What a cache stores of keys and values; see `generation.slot_cache.StoredStates`."""

    scheme: KvScheme
    largest: HeadScales | None

    def __call__(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        bits = self.scheme.bits
        if bits == 16:
            return keys, values
        largest = self.largest[layer] if self.largest else (None, None)
        return round_states(keys, bits, largest[0]), round_states(values, bits, largest[1])


class _RoundingCache(DynamicCache):
    def __init__(self, config: Any, stored: StoredStates) -> None:
        super().__init__(config=config)
        self._stored = stored

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        stored = self._stored(layer_idx, key_states, value_states)
        return super().update(*stored, layer_idx, *args, **kwargs)


class _RecordingCache(DynamicCache):
    """Records the largest key and value of each head."""

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
    """The largest |key| and |value| of each head over these rows of ids, int64 [tokens]."""
    largest: dict[int, tuple[Tensor, Tensor]] = {}
    device = next(model.parameters()).device
    for ids in rows:
        model(
            input_ids=ids.unsqueeze(0).to(device),
            past_key_values=_RecordingCache(model.config, largest),
            use_cache=True,
        )
    return [largest[i] for i in range(len(largest))]


class CacheBackend(TorchBackend):
    """A loaded checkpoint that transformers runs with a rounded KV cache.

    Args:
        plain: the checkpoint; both backends share its model.
        scheme: how keys and values are stored.
        largest: from `calibrated_scales`; used unless the scheme is dynamic.
    """

    def __init__(self, plain: TorchBackend, scheme: KvScheme, largest: HeadScales) -> None:
        self._plain = plain
        self.device = plain.device
        self.dtype = plain.dtype
        self.eos = plain.eos
        self.scheme = scheme
        self._stored = _Rounding(scheme, None if scheme.dynamic else largest)

    @property
    def model(self) -> Any:
        """The model, which both backends share."""
        return self._plain.model

    def _cache(self) -> _RoundingCache:
        return _RoundingCache(self.model.config, self._stored)

    def engine(self) -> Engine:
        """What generates the answers."""
        return TorchEngine(self.model, self._plain.architecture, self._stored)

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
    """Bytes of the keys and values of one sequence, with scales. Windowed layers keep one window.

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
