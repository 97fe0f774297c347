"""The rotary frequencies of a model, taken from its own module, so every scaling type is right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...errors import Refused
from ...models import Architecture

__all__ = ["Rotary", "rotary_tables"]


@dataclass(frozen=True)
class Rotary:
    """How positions become angles.

    Attributes:
        frequencies: float32 [head_dim / 2], radians per position.
        scaling: factor of cosine and sine; 1 except for YaRN.
    """

    frequencies: NDArray[np.float32]
    scaling: float


def rotary_tables(settings: Any, architecture: Architecture) -> dict[str | None, Rotary]:
    """The rotary frequencies of a model by layer type (None: all layers share them).

    Args:
        settings: the transformers config of the model.
        architecture: of the model; `expressible` as a graph.

    Raises:
        Refused: transformers rotates another part of a head than config.json says.
    """
    from transformers import AutoModelForCausalLM  # late: slow to import

    with torch.device("meta"):  # finds the class of the rotary module without allocating a weight
        module = AutoModelForCausalLM.from_config(settings).get_submodule(architecture.rotary)
    rotary = type(module)(settings)
    tables: dict[str | None, Rotary] = {}
    for layer in architecture.layers:
        kind, turned = layer.attention.rope_layer_type, layer.attention.rotary_dim
        if kind in tables:
            continue
        prefix = f"{kind}_" if kind else ""
        frequencies = getattr(rotary, f"{prefix}inv_freq").float().numpy()
        if 2 * frequencies.size != turned:
            raise Refused(
                f"config.json: rotary positions turn {2 * frequencies.size} channels, not {turned}",
                "partial rotary is not supported",
            )
        tables[kind] = Rotary(frequencies, float(getattr(rotary, f"{prefix}attention_scaling")))
    return tables
