"""Rotary positions in a GGUF file: keys, and tables that divide the frequencies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import log
from typing import Any

import torch
from torch import Tensor

from ...models import Architecture
from ...models.llama_cpp import YARN, rope_block

__all__ = ["Rope", "rope_of"]


@dataclass(frozen=True)
class Rope:
    """What llama.cpp must know to make the rotary angles of a model.

    Attributes:
        base: of the layers without a window.
        window_base: of the layers with a window, if it differs; else None.
        kind: `rope.scaling.type`; empty: positions are not scaled.
        factor: what positions are divided by.
        original: positions before the context was extended; 0: not written.
        attention_factor: what cosines and sines are multiplied by beyond llama.cpp's own factor.
        tables: tensor name -> float32 [rotary_dim / 2], which llama.cpp divides frequencies by.
    """

    base: float
    window_base: float | None = None
    kind: str = ""
    factor: float = 1.0
    original: int = 0
    attention_factor: float = 1.0
    tables: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])

    def add_keys(self, gguf: Any, writer: Any) -> None:
        """Write the keys of `<architecture>.rope`."""
        writer.add_rope_freq_base(self.base)
        if self.window_base is not None:
            writer.add_rope_freq_base_swa(self.window_base)
        if self.kind:
            writer.add_rope_scaling_type(gguf.RopeScalingType(self.kind))
            writer.add_rope_scaling_factor(self.factor)
        if self.original:
            writer.add_rope_scaling_orig_ctx_len(self.original)
        if self.attention_factor != 1.0:
            writer.add_rope_scaling_attn_factors(self.attention_factor)


def rope_of(model: Architecture, settings: Any) -> Rope:
    """The rotary positions of a model.

    Args:
        model: the architecture.
        settings: its config as transformers loads it, for transformers' own frequencies.
    """
    attentions = [layer.attention for layer in model.layers]
    full = next((a for a in attentions if not a.window), attentions[0])
    block = rope_block(model.config, full.rope_layer_type)
    base = _base(model, full.rope_layer_type)
    windowed = {a.rope_layer_type for a in attentions if a.window} - {full.rope_layer_type}
    bases = {_base(model, kind) for kind in windowed} - {base}
    shared: dict[str, Any] = {"base": base, "window_base": next(iter(bases), None)}
    kind = str(block.get("rope_type") or "default")
    if kind == "default":
        return Rope(**shared)
    if kind == "linear":
        return Rope(**shared, kind="linear", factor=float(block["factor"]))
    frequencies, magnitude = _stock(settings, kind, full.rope_layer_type)
    if kind == "longrope":
        return Rope(
            **shared,
            kind="longrope",
            original=_original(model, block),
            attention_factor=magnitude,
            tables={
                f"rope_factors_{name}.weight": torch.tensor(block[f"{name}_factor"])
                for name in ("long", "short")
            },
        )
    if kind == "yarn" and all(block.get(key, value) == value for key, value in YARN.items()):
        factor = float(block["factor"])
        own = 1.0 + 0.1 * log(factor)  # what llama.cpp multiplies by, arXiv:2309.00071, eq. 22
        attention = magnitude / own
        return Rope(
            **shared,
            kind="yarn",
            factor=factor,
            original=_original(model, block),
            attention_factor=1.0 if abs(attention - 1) < 1e-6 else attention,
        )
    plain = base ** -(torch.arange(0, full.rotary_dim, 2, dtype=torch.float64) / full.rotary_dim)
    tables = {"rope_freqs.weight": (plain / frequencies.double()).float()}
    return Rope(**shared, attention_factor=magnitude, tables=tables)


def _base(model: Architecture, layer_type: str | None) -> float:
    config = model.config
    theta = rope_block(config, layer_type).get("rope_theta")
    return float(theta or config.get("rope_theta") or 10000.0)


def _original(model: Architecture, block: Mapping[str, Any]) -> int:
    """Positions that the model was first trained on."""
    config = model.config
    key = "original_max_position_embeddings"
    original = block.get(key) or config.get(key)
    assert original or model.max_positions, "transformers fills in a default"
    return int(original or model.max_positions or 0)


def _stock(settings: Any, kind: str, layer_type: str | None) -> tuple[Tensor, float]:
    """Frequencies [rotary_dim / 2] and magnitude of cosines, as transformers makes them."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS  # late: slow to import

    more = {"layer_type": layer_type} if layer_type else {}
    frequencies, magnitude = ROPE_INIT_FUNCTIONS[kind](settings, torch.device("cpu"), **more)
    return frequencies, float(magnitude)
