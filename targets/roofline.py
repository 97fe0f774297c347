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

import yaml
from pydantic import BaseModel, ConfigDict

from ..models import Architecture
from ..models.footprint import head_bytes, mixture_work

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
    model: Architecture,
    hardware: Hardware,
    *,
    read_bytes: int,
    context: int,
    batch: int,
    float_bytes: int = 2,
) -> tuple[float, ...]:
    """Seconds at the peak for one decode step, in the order of `DECODE_TERMS`.

    Args:
        model: the architecture.
        hardware: the device in its power mode.
        read_bytes: weights that a step reads.
        context: tokens in the cache of each sequence.
        batch: sequences decoded together.
        float_bytes: bytes of an element of the cache.
    """
    cache_bytes = model.state_bytes(context, batch, element_bytes=float_bytes)
    macs = model.linear_weights(1) + head_bytes(model, 1)
    attended = model.decode_macs(context) * batch
    return (
        (read_bytes + cache_bytes) / hardware.bandwidth,
        batch * macs / hardware.macs,
        attended / hardware.macs,
        _launches(len(model.layers), hardware),
        batch * SEQUENCE_SECONDS,
    )


def prefill_terms(
    model: Architecture, hardware: Hardware, *, prompt: int, batch: int
) -> tuple[float, ...]:
    """Seconds at the peak for the prefill of `batch` prompts of `prompt` tokens, in the order of `PREFILL_TERMS`."""
    head = head_bytes(model, 1)  # only the last position needs logits
    linears = mixture_work(model.linear_weights(1), model.linear_weights())
    return (
        batch * (linears * prompt + head) / hardware.macs,
        batch * model.prefill_macs(prompt) / hardware.macs,
        _launches(len(model.layers), hardware),
    )


def _launches(layers: int, hardware: Hardware) -> float:
    """Seconds for the fixed work of the layers, which the GPU's clock sets; nothing on a CPU."""
    return layers * LAYER_CYCLES / hardware.clock if hardware.clock else 0.0


def time_of(
    terms: tuple[float, ...], coefficients: Mapping[str, float], names: tuple[str, ...]
) -> float:
    """Seconds that the terms take on an engine."""
    return sum(coefficients[name] * term for name, term in zip(names, terms, strict=True))
