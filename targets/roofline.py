"""The arithmetic of the estimate: what a decode step and a prefill have to do, and how long that takes.

A decode step reads weights and KV cache (memory), multiplies (compute), attends (attention), pays for every layer's
launches (layers) and for every sequence's sampling (sequences). A prefill multiplies, attends and pays for launches. Each
is a time at the hardware's peak, in seconds; an engine's coefficients, fitted on published measurements, say how many
times longer it takes. Memory and prefill coefficients are at least 1: nothing beats the peak.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict

from ..models import family_of
from ..models.footprint import head_bytes, kv_size, linear_macs, linear_weights, with_toll

__all__ = [
    "DECODE_TERMS",
    "FIT_FILE",
    "PREFILL_TERMS",
    "Band",
    "EngineFit",
    "Fit",
    "Hardware",
    "Runtime",
    "decode_terms",
    "load_fit",
    "prefill_terms",
    "time_of",
]

FIT_FILE = Path(__file__).parent / "fit.yaml"
DECODE_TERMS = ("memory", "compute", "attention", "layers", "sequences")
PREFILL_TERMS = ("compute", "attention", "layers")
LAYER_CYCLES = 100_000
"""Clock cycles in the unit of the `layers` term, so that its coefficient is near 1."""
SEQUENCE_SECONDS = 1e-3


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Hardware(_Strict):
    """The three figures of a power mode that the arithmetic needs."""

    bandwidth: float
    """Bytes a second."""
    macs: float
    """Dense float16 multiply-adds a second."""
    clock: float | None
    """GPU cycles a second; None for a CPU."""


class Band(_Strict):
    """How far eight of ten held-out measurements were from their prediction: within a factor of one plus this, either way."""

    known: float
    """On a board and power mode that the fit has seen, with a model that it has not."""
    new: float
    """On a board or power mode that the fit has not seen."""
    batched: float
    """With more than one sequence."""
    inferred: float | None = None
    """With a model whose shape was inferred from its parameter count."""


class EngineFit(_Strict):
    """Coefficients of one engine and how well they held on data left out."""

    decode: dict[str, float]
    stored_bits: dict[str, float] = {}
    """Bits a weight by precision, and of the `head`, where the engine stores weights in a format of its own."""
    prefill: dict[str, float] | None = None
    decode_band: Band
    prefill_band: Band | None = None
    fitted_on: list[str] = []
    """`target:power mode` of every measurement that was used."""
    decode_rows: int = 0
    prefill_rows: int = 0
    errors: dict[str, float | None] = {}
    """Cross-validated median relative errors, and the naive rule's."""
    notes: list[str] = []


class Runtime(_Strict):
    """Memory beside weights and KV cache, in bytes: a fixed part, a share of those two, and a part a sequence."""

    base_bytes: float
    share: float
    head_copies: float = 0.0
    """Copies of a tied embedding that the engine keeps for the head."""
    sequence_bytes: float = 0.0
    notes: list[str] = []


class Fit(_Strict):
    """What `fit.yaml` holds."""

    source: str
    engines: dict[str, EngineFit]
    runtime: dict[str, Runtime]


@cache
def load_fit(path: Path = FIT_FILE) -> Fit:
    """The fitted coefficients that ship with edgewright."""
    return Fit.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))


def decode_terms(
    config: Mapping[str, Any],
    hardware: Hardware,
    *,
    read_bytes: int,
    context: int,
    batch: int,
    float_bytes: int = 2,
) -> tuple[float, ...]:
    """Seconds at the peak for one decode step, in the order of `DECODE_TERMS`.

    Args:
        config: the model's config.json.
        hardware: the device in its power mode.
        read_bytes: weights that a step reads.
        context: tokens in the cache of each sequence.
        batch: sequences decoded together.
        float_bytes: bytes of an element of the cache.
    """
    shape = family_of(config).shape(config)
    cache_bytes = kv_size(config, context, batch, element_bytes=float_bytes)
    macs = linear_macs(config) + head_bytes(config, 1)
    attended = kv_size(config, context, batch, element_bytes=1) * shape.group
    return (
        (read_bytes + cache_bytes) / hardware.bandwidth,
        batch * macs / hardware.macs,
        attended / hardware.macs,
        _launches(shape.num_hidden_layers, hardware),
        batch * SEQUENCE_SECONDS,
    )


def prefill_terms(
    config: Mapping[str, Any], hardware: Hardware, *, prompt: int, batch: int
) -> tuple[float, ...]:
    """Seconds at the peak for the prefill of `batch` prompts of `prompt` tokens, in the order of `PREFILL_TERMS`."""
    family = family_of(config)
    shape = family.shape(config)
    head = head_bytes(config, 1)  # only the last position needs logits
    pairs = sum(
        prompt * min(prompt, kind.window or prompt) - min(prompt, kind.window or prompt) ** 2 // 2
        for kind in family.layer_kinds(config)
    )
    attended = 2 * shape.num_attention_heads * shape.head_dim * pairs
    return (
        batch
        * (with_toll(linear_macs(config), linear_weights(config, None)) * prompt + head)
        / hardware.macs,
        batch * attended / hardware.macs,
        _launches(shape.num_hidden_layers, hardware),
    )


def _launches(layers: int, hardware: Hardware) -> float:
    """Seconds for the fixed work of the layers, which the GPU's clock sets; nothing on a CPU."""
    return layers * LAYER_CYCLES / hardware.clock if hardware.clock else 0.0


def time_of(
    terms: tuple[float, ...], coefficients: Mapping[str, float], names: tuple[str, ...]
) -> float:
    """Seconds that the terms take on an engine."""
    return sum(coefficients[name] * term for name, term in zip(names, terms, strict=True))
