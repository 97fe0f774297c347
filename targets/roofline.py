"""The arithmetic of the estimator: the time of a decode step and of a prefill.

The time of a decode step is a sum of terms: reading weights and KV cache (memory), matrix products
(compute), attention, kernel launches of every layer (layers), and sampling of every sequence
(sequences). A prefill has the terms compute, attention and layers.

Each term is the time in seconds at the peak of the hardware. The coefficients of an engine, fitted
on published measurements, say how many times longer the engine takes. Memory and prefill
coefficients are at least 1, as nothing is faster than the peak.
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
    """The speed of a device in one power mode."""

    bandwidth: float
    """Bytes a second."""
    macs: float
    """Dense float16 multiply-adds a second."""
    clock: float | None
    """GPU cycles a second; None for a CPU."""


class Band(_Strict):
    """Error of held-out measurements: eight of ten are within a factor of 1 + band, either way."""

    known: float
    """For a board and power mode that were fitted, with a model that was not."""
    new: float
    """For a board or power mode that was not fitted."""
    batched: float
    """For more than one sequence."""
    inferred: float | None = None
    """For a model whose shape was inferred from its parameter count."""


class EngineFit(_Strict):
    """Coefficients of one engine, and their errors on held-out measurements."""

    decode: dict[str, float]
    stored_bits: dict[str, float] = {}
    """Bits per weight by precision, and of the `head`, if the engine has its own weight format."""
    prefill: dict[str, float] | None = None
    decode_band: Band
    prefill_band: Band | None = None
    fitted_on: list[str] = []
    """`target:power mode` of every measurement that was fitted."""
    decode_rows: int = 0
    prefill_rows: int = 0
    errors: dict[str, float | None] = {}
    """Cross-validated median relative errors, also of the naive rule."""
    notes: list[str] = []


class Runtime(_Strict):
    """Memory beside weights and KV cache: fixed bytes, a share of those two, bytes per sequence."""

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
    """Seconds at the peak to prefill `batch` prompts of `prompt` tokens; see `PREFILL_TERMS`."""
    head = head_bytes(model, 1)  # only the last position needs logits
    linears = mixture_work(model.linear_weights(1), model.linear_weights())
    return (
        batch * (linears * prompt + head) / hardware.macs,
        batch * model.prefill_macs(prompt) / hardware.macs,
        _launches(len(model.layers), hardware),
    )


def _launches(layers: int, hardware: Hardware) -> float:
    """Seconds for kernel launches of all layers, which depend on the GPU's clock; 0 on a CPU."""
    return layers * LAYER_CYCLES / hardware.clock if hardware.clock else 0.0


def time_of(
    terms: tuple[float, ...], coefficients: Mapping[str, float], names: tuple[str, ...]
) -> float:
    """Seconds that an engine takes for the terms."""
    return sum(coefficients[name] * term for name, term in zip(names, terms, strict=True))
