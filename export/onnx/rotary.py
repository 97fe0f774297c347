"""The rotary frequencies of a model, taken from the model's own rotary module so that every scaling type comes out right."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...errors import Refused
from ...models import Family

__all__ = ["Rotary", "rotary_tables"]

# Their frequencies depend on the length of the sequence being run, which a static graph cannot follow.
LENGTH_DEPENDENT = ("dynamic", "longrope")


@dataclass(frozen=True)
class Rotary:
    """How positions turn into angles.

    Attributes:
        frequencies: float32 [head_dim / 2], radians a position.
        scaling: what cosine and sine are multiplied by (other than 1 for YaRN).
    """

    frequencies: NDArray[np.float32]
    scaling: float


def rotary_tables(
    settings: Any, family: Family, kinds: Iterable[str | None], head_dim: int
) -> dict[str | None, Rotary]:
    """The rotary tables of the layer types `kinds` (None: all layers share one).

    Args:
        settings: the transformers config of the model.
        family: its family.
        kinds: layer types to ask for.
        head_dim: width of a head.

    Raises:
        Refused: the rotary type follows the sequence length, or turns only part of a head.
    """
    from transformers import AutoModelForCausalLM  # late: slow to import

    for kind in kinds:
        _check_type(getattr(settings, "rope_parameters", None) or {}, kind)
    with torch.device("meta"):  # finds the class of the rotary module without allocating a weight
        module = AutoModelForCausalLM.from_config(settings).get_submodule(family.rotary)
    rotary = type(module)(settings)
    tables = {}
    for kind in kinds:
        prefix = f"{kind}_" if kind else ""
        frequencies = getattr(rotary, f"{prefix}inv_freq").float().numpy()
        if 2 * frequencies.size != head_dim:
            raise Refused(
                f"config.json: rotary positions turn {2 * frequencies.size} of {head_dim} channels",
                "partial rotary is not supported",
            )
        tables[kind] = Rotary(frequencies, float(getattr(rotary, f"{prefix}attention_scaling")))
    return tables


def _check_type(parameters: Mapping[str, Any], kind: str | None) -> None:
    block = parameters.get(kind, parameters) if kind else parameters
    name = (block or {}).get("rope_type", "default")
    if name in LENGTH_DEPENDENT:
        raise Refused(
            f"config.json: rope_type `{name}` changes its frequencies with the sequence length, which no static graph can do",
            "use a model with default, linear, llama3 or yarn positions",
        )
