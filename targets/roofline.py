"""The arithmetic of the estimator: the time of a decode step and of a prefill.

The time of a decode step is a sum of terms: reading weights and KV cache (memory), turning the
weights into operands once (unpacking), matrix products of every token (compute), attention, kernel
launches of every layer (layers), and sampling of every sequence (sequences). A prefill has the
terms compute, attention and layers.

Each term is the time in seconds at the peak of the hardware. The coefficients of an engine, fitted
on published measurements, say how many times longer the engine takes. Memory and prefill
coefficients are at least 1, as nothing is faster than the peak.

A pass over a few tokens (a decode step, or the check of a draft) runs the matrix-vector kernels
that the decode coefficients describe. A pass over many runs the matrix-matrix kernels of a prefill,
if they are faster: they read the weights while they multiply. So the rate of a large batch
saturates where its products take longer than the reads (Williams et al. 2009).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml
from pydantic import BaseModel

from ..models import Architecture
from ..models.footprint import head_bytes, mixture_work
from ..steps.strict import STRICT

__all__ = [
    "DECODE_TERMS",
    "FIT_FILE",
    "PREFILL_TERMS",
    "Band",
    "EngineFit",
    "Fit",
    "Hardware",
    "Kernels",
    "Runtime",
    "TokenPass",
    "decode_terms",
    "load_fit",
    "pass_seconds",
    "prefill_terms",
    "time_of",
]

FIT_FILE = Path(__file__).parent / "fit.yaml"
DECODE_TERMS = ("memory", "unpacking", "compute", "attention", "layers", "sequences")
PREFILL_TERMS = ("compute", "attention", "layers")
LAYER_CYCLES = 100_000
"""Clock cycles in the unit of the `layers` term, so that its coefficient is near 1."""
SEQUENCE_SECONDS = 1e-3
VECTOR_TOKENS = 32
"""Tokens of a pass up to which an engine uses matrix-vector kernels. Published rates of speculative
decoding fit it: 32 positions take as long as single ones would, 60 take as long as a prefill."""


@dataclass(frozen=True)
class Kernels:
    """Coefficients of an engine's kernels.

    Attributes:
        decode: by name of a term, for passes over a few tokens.
        prefill: the same for passes over many; None: not known, so `decode` is used for all.
        vector_tokens: tokens of the largest pass over a few.
    """

    decode: Mapping[str, float]
    prefill: Mapping[str, float] | None = None
    vector_tokens: int = VECTOR_TOKENS


@dataclass(frozen=True)
class TokenPass:
    """One pass of a model over the next tokens of some sequences.

    Attributes:
        model: the architecture.
        read_bytes: weights that the pass reads.
        context: tokens in the cache of each sequence.
        batch: sequences that are processed together.
        tokens: of each sequence in this pass: 1 to decode, more to check a draft.
        cache_bytes: bytes of an element of the cache.
        samples: whether a token of each sequence is sampled at the end. A draft model proposes
            tokens on the GPU, without.
    """

    model: Architecture
    read_bytes: int
    context: int
    batch: int = 1
    tokens: int = 1
    cache_bytes: int = 2
    samples: bool = True

    @property
    def moved_bytes(self) -> int:
        """Bytes of weights and caches that the pass reads."""
        return self.read_bytes + self.model.state_bytes(
            self.context, self.batch, element_bytes=self.cache_bytes
        )


class _Strict(BaseModel):
    model_config = STRICT


class Hardware(_Strict):
    """The speed of a device in one power mode."""

    bandwidth: float
    """Bytes of memory that the GPU, or the CPU, can read a second."""
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
    speculative: float | None = None
    """For a draft model that proposes tokens; None: no such rate was measured."""
    inferred: float | None = None
    """For a model whose shape was inferred from its parameter count."""


class EngineFit(_Strict):
    """Coefficients of one engine, and their errors on held-out measurements."""

    decode: dict[str, float]
    stored_bits: dict[str, float] = {}
    """Bits per weight by precision, and of the `head`, if the engine has its own weight format."""
    prefill: dict[str, float] | None = None
    vector_tokens: int = VECTOR_TOKENS
    """Tokens of a pass up to which the decode coefficients hold."""
    decode_band: Band
    prefill_band: Band | None = None
    fitted_on: list[str] = []
    """`target:power mode` of every measurement that was fitted."""
    decode_rows: int = 0
    prefill_rows: int = 0
    errors: dict[str, float | None] = {}
    """Cross-validated median relative errors, also of the naive rule."""
    notes: list[str] = []

    @property
    def kernels(self) -> Kernels:
        """What `pass_seconds` needs of it."""
        return Kernels(self.decode, self.prefill, self.vector_tokens)


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


def decode_terms(work: TokenPass, hardware: Hardware) -> tuple[float, ...]:
    """Seconds at the peak for one pass, in the order of `DECODE_TERMS`."""
    model = work.model
    products = (model.linear_weights(1) + head_bytes(model, 1)) / hardware.macs
    count = work.batch * work.tokens
    return (
        work.moved_bytes / hardware.bandwidth,
        products,
        count * products,
        count * model.decode_macs(work.context) / hardware.macs,
        _launches(len(model.layers), hardware),
        work.batch * SEQUENCE_SECONDS if work.samples else 0.0,
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


def pass_seconds(work: TokenPass, hardware: Hardware, kernels: Kernels) -> float:
    """Seconds of a pass, by the faster kernels that the engine has for so many tokens."""
    terms = dict(zip(DECODE_TERMS, decode_terms(work, hardware), strict=True))
    few = time_of(tuple(terms.values()), kernels.decode, DECODE_TERMS)
    if kernels.prefill is None or work.batch * work.tokens <= kernels.vector_tokens:
        return few
    reads = kernels.decode["memory"] * terms["memory"]
    many = (
        max(reads, kernels.prefill["compute"] * terms["compute"])
        + kernels.prefill["attention"] * terms["attention"]
        + kernels.prefill["layers"] * terms["layers"]
        + kernels.decode["sequences"] * terms["sequences"]
    )
    return min(few, many)
