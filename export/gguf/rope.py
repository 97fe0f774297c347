"""Rotary positions in a GGUF file: keys, and tables that divide the frequencies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...models import Architecture
from ...models.blocks.rotary import Rotary
from ...models.llama_cpp import YARN
from ..onnx.rotary import RotaryTable, rotary_tables

__all__ = ["Rope", "rope_of"]

NEAR = 1e-6
"""Factors that differ from 1 by less are not written."""
LONG_FACTORS = (
    "llama.cpp takes the factors of long texts for every text if its context has more than {:,} "
    "tokens (longrope), and transformers for longer texts only: keep --ctx-size within them for "
    "short texts"
)


@dataclass(frozen=True)
class Rope:
    """What llama.cpp must know to make the rotary angles of a model.

    Attributes:
        rotary: the positions of the layers without a window.
        window_base: the base of the layers with a window, if it differs; else None.
        kind: `rope.scaling.type`; empty: positions are not scaled.
        factor: what positions are divided by.
        attention_factor: what cosines and sines are multiplied by beyond llama.cpp's own factor.
        tables: tensor name -> float32 [rotary.dim / 2], which llama.cpp divides frequencies by.
        notes: what llama.cpp does otherwise than transformers.
    """

    rotary: Rotary
    window_base: float | None = None
    kind: str = ""
    factor: float = 1.0
    attention_factor: float = 1.0
    tables: Mapping[str, NDArray[np.float32]] = field(
        default_factory=dict[str, NDArray[np.float32]]
    )
    notes: tuple[str, ...] = ()

    def add(self, gguf: Any, writer: Any) -> None:
        """Write the keys of `<architecture>.rope`, and the tables."""
        for name, table in self.tables.items():
            writer.add_tensor(name, table)
        writer.add_rope_dimension_count(self.rotary.dim)
        writer.add_rope_freq_base(self.rotary.base)
        if self.window_base is not None:
            writer.add_rope_freq_base_swa(self.window_base)
        if self.kind:
            writer.add_rope_scaling_type(gguf.RopeScalingType(self.kind))
            writer.add_rope_scaling_factor(self.factor)
            writer.add_rope_scaling_orig_ctx_len(self.rotary.pretrained_positions)
        if abs(self.attention_factor - 1) > NEAR:
            writer.add_rope_scaling_attn_factors(self.attention_factor)


def rope_of(model: Architecture, settings: Any) -> Rope:
    """The rotary positions of a model.

    Args:
        model: the architecture.
        settings: its config as transformers loads it, for transformers' own frequencies.
    """
    tables = rotary_tables(settings, model)
    full = [layer.attention.rotary for layer in model.layers if not layer.attention.window]
    every = [layer.attention.rotary for layer in model.layers]
    rotary = next(found for found in (*full, *every) if found)
    bases = [table.rotary.base for table in tables.values() if table.rotary.base != rotary.base]
    window_base = next(iter(bases), None)
    table = tables[rotary.layer_type]
    if rotary.form == "default":
        return Rope(rotary, window_base)
    if rotary.form == "ntk_alpha":
        grown = float(rotary.settings["alpha"]) ** (rotary.dim / (rotary.dim - 2))
        return Rope(replace(rotary, base=rotary.base * grown), window_base)
    if rotary.form == "linear":
        return Rope(rotary, window_base, "linear", rotary.factor)
    if rotary.form == "yarn" and not _own_numbers(rotary):
        own = 1.0 + 0.1 * log(rotary.factor)  # llama.cpp multiplies by it (YaRN, equation 22)
        return Rope(rotary, window_base, "yarn", rotary.factor, table.scaling / own)
    if rotary.form == "longrope":
        divisors = {
            "rope_factors_short.weight": _divisors(rotary, table.frequencies),
            "rope_factors_long.weight": _divisors(rotary, _long(table)),
        }
        notes = (LONG_FACTORS.format(rotary.pretrained_positions),)
        return Rope(rotary, window_base, "longrope", 1.0, table.scaling, divisors, notes)
    divisors = {"rope_freqs.weight": _divisors(rotary, table.frequencies)}
    return Rope(rotary, window_base, attention_factor=table.scaling, tables=divisors)


def _own_numbers(rotary: Rotary) -> bool:
    """Whether YaRN has other numbers than those that are fixed in llama.cpp."""
    return any(rotary.settings.get(key, value) != value for key, value in YARN.items())


def _long(table: RotaryTable) -> NDArray[np.float32]:
    """The frequencies beyond the positions of the pretraining."""
    return table.frequencies if table.long_frequencies is None else table.long_frequencies


def _divisors(rotary: Rotary, frequencies: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the plain frequencies of a base are divided by to give these."""
    plain = rotary.base ** -(np.arange(0, rotary.dim, 2, dtype=np.float64) / rotary.dim)
    return (plain / frequencies.astype(np.float64)).astype(np.float32)
