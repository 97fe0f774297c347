"""What a target will give: memory, time to first token and tokens a second, from config.json and a profile alone.

A roofline with fixed costs (see `roofline`); its coefficients come from `fit.yaml`, which `perf/estimator.py` fits on
published measurements. Each prediction carries the relative error that held-out measurements had, so that a plan can say
how far to trust it.
"""

from __future__ import annotations

import bisect
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from ..errors import UsageError
from ..models import Architecture
from ..models.footprint import (
    check_precision,
    float_bytes_of,
    head_bytes,
    mixture_work,
    read_size,
    size_of,
    traffic,
)
from .profile import PowerMode, Target, usable_bytes
from .roofline import (
    DECODE_TERMS,
    PREFILL_TERMS,
    Band,
    EngineFit,
    Hardware,
    Runtime,
    decode_terms,
    load_fit,
    prefill_terms,
    time_of,
)

__all__ = [
    "ENGINES",
    "Prediction",
    "engines",
    "float_bytes_on",
    "hardware_of",
    "longest_context",
    "predict",
    "runtime_size",
    "size_of",
]

ENGINES = {
    "jetson": ("edge-llm", "vllm", "llama.cpp", "mlc", "ollama", "tinychat", "transformers"),
    "cpu": ("onnxruntime",),
}

UNMEASURED = ("fp8", "int3", "int2")
"""Precisions without kernels on any board that is known here."""

MOST_POSITIONS = 131072
"""Positions of a model whose config.json does not limit them."""


@dataclass(frozen=True)
class Prediction:
    """What a model will need and give on a target, in one power mode.

    Attributes:
        target: name of the target.
        power_mode: name of the power mode.
        engine: what runs the model; speeds are that engine's.
        precision: of the linear layers.
        context: tokens in the cache of each sequence, at which decode speed and memory are given.
        prompt: tokens of the prompt that `ttft_ms` is for.
        batch: sequences at a time.
        weight_bytes: weights on disk.
        kv_bytes: KV cache of all sequences.
        runtime_bytes: engine, CUDA context, activations and the engine's own copies of weights.
        total_bytes: the three together.
        usable_bytes: what the target can give.
        fits: whether the total stays within it.
        ttft_ms: milliseconds to the first token of each sequence; None where nothing was measured to go by.
        decode_tok_s: tokens a second of all sequences together; None likewise.
        tokens_per_joule: decode tokens a joule by power mode, where a mode has a watt label. The label's whole budget
            is counted as used, so this is a lower bound, good for comparing boards; modes of MAXN kind have no label.
        band: eight of ten held-out measurements were within a factor of 1 + `band` of `decode_tok_s`, either way.
        ttft_band: the same for `ttft_ms`.
        notes: what to know before believing it.
    """

    target: str
    power_mode: str
    engine: str
    precision: str
    context: int
    prompt: int
    batch: int
    weight_bytes: int
    kv_bytes: int
    runtime_bytes: int
    total_bytes: int
    usable_bytes: int
    fits: bool
    ttft_ms: float | None
    decode_tok_s: float | None
    tokens_per_joule: dict[str, float]
    band: float | None
    ttft_band: float | None
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The prediction as plain data, for JSON."""
        return asdict(self)


def engines(target: Target) -> tuple[str, ...]:
    """Engines that a target's speed can be predicted for; the first is the default."""
    return ENGINES[target.platform.kind]


def float_bytes_on(target: Target, precision: str) -> int:
    """Bytes of a parameter that is not quantized: graphs for CPUs keep embedding and head in float32."""
    return (
        4
        if target.platform.kind == "cpu" and precision not in ("fp16", "bf16")
        else float_bytes_of(precision)
    )


def hardware_of(target: Target, mode: PowerMode) -> Hardware:
    """The figures of a power mode that the arithmetic needs."""
    return Hardware(
        bandwidth=mode.bandwidth_gb_s * 1e9,
        macs=target.tflops(mode) * 1e12 / 2,
        clock=mode.gpu_mhz * 1e6 if mode.gpu_mhz else None,
    )


def runtime_size(
    model: Architecture, runtime: Runtime, held: int, batch: int, float_bytes: int
) -> int:
    """Bytes that an engine needs beside weights and KV cache, which are `held` bytes together."""
    copies = runtime.head_copies * head_bytes(model, float_bytes) if model.tied else 0.0
    return int(runtime.base_bytes + runtime.share * held + copies + runtime.sequence_bytes * batch)


def predict(
    target: Target,
    model: Architecture,
    *,
    precision: str,
    context: int = 2048,
    prompt: int = 2048,
    batch: int = 1,
    power_mode: str | None = None,
    group_size: int = 128,
    engine: str | None = None,
    extra_bytes: int = 0,
) -> Prediction:
    """Memory and speed of a model on a target.

    Args:
        target: the device.
        model: the architecture.
        precision: one of `PRECISIONS`, of the linear layers.
        context: tokens in the cache of each sequence. A longer prompt is cut to it.
        prompt: tokens of the prompt.
        batch: sequences at a time.
        power_mode: by name; the target's default mode if None.
        group_size: of INT4.
        engine: one of `engines(target)`; by default the first.
        extra_bytes: what the weights take beyond linear layers in `precision` and the rest in floating point; read at every step.

    Raises:
        UsageError: unknown precision, power mode or engine, or a size below 1.
    """
    check_precision(precision)
    engine = _engine(target, engine)
    if min(context, prompt, batch) < 1:
        raise UsageError("context, prompt and batch must be at least 1", "give positive numbers")
    prompt = min(prompt, context)
    mode = target.mode(power_mode)
    fit = load_fit()
    floats = float_bytes_on(target, precision)
    weights = size_of(model, precision, group_size, float_bytes=floats) + extra_bytes
    cache = model.state_bytes(context, batch, element_bytes=floats)
    processor = (
        "cpu" if precision == "int8-dynamic" else target.platform.kind
    )  # ONNX Runtime runs it on the cores
    runtime = runtime_size(model, fit.runtime[processor], weights + cache, batch, floats)
    usable = usable_bytes(target)
    notes = list(_notes(target, precision, fit.engines[engine]))
    run = _Run(
        target,
        model,
        fit.engines[engine],
        precision,
        group_size,
        context,
        prompt,
        batch,
        floats,
        extra_bytes,
    )
    if model.expert_layers:
        read, paid, every = (
            f"{size / 1e9:.2f} GB"
            for size in (run.read_bytes(batch), run.paid_bytes, run.read_bytes())
        )
        notes.append(
            f"a mixture of experts: a decode step reads {read} of {every}, and by published rates takes as long as {paid} would"
        )
    known = run.measurable and f"{target.name}:{mode.name}" in fit.engines[engine].fitted_on
    if run.measurable and not known:
        notes.append(
            f"nothing published was measured with {engine} on {target.name} in {mode.name}; this is extrapolated"
        )
    return Prediction(
        target=target.name,
        power_mode=mode.name,
        engine=engine,
        precision=precision,
        context=context,
        prompt=prompt,
        batch=batch,
        weight_bytes=weights,
        kv_bytes=cache,
        runtime_bytes=runtime,
        total_bytes=weights + cache + runtime,
        usable_bytes=usable,
        fits=weights + cache + runtime <= usable,
        ttft_ms=run.ttft_ms(mode),
        decode_tok_s=run.decode_tok_s(mode),
        tokens_per_joule=run.tokens_per_joule(),
        band=run.band(run.fit.decode_band, known),
        ttft_band=run.band(run.fit.prefill_band, known),
        notes=tuple(notes),
    )


def longest_context(
    target: Target,
    model: Architecture,
    *,
    precision: str,
    batch: int = 1,
    group_size: int = 128,
    extra_bytes: int = 0,
) -> int:
    """Tokens of KV cache that fit beside the weights, in steps of 64, up to the model's positions; 0 if not even one step does."""
    most = (model.max_positions or MOST_POSITIONS) // 64

    def fits(steps: int) -> bool:
        found = predict(
            target,
            model,
            precision=precision,
            context=64 * steps,
            prompt=1,
            batch=batch,
            group_size=group_size,
            extra_bytes=extra_bytes,
        )
        return found.fits

    return 64 * (bisect.bisect_left(range(1, most + 1), True, key=lambda steps: not fits(steps)))


def _engine(target: Target, engine: str | None) -> str:
    known = engines(target)
    if engine is not None and engine not in known:
        raise UsageError(
            f"{target.name}: no measurements of engine `{engine}` to predict from",
            f"use one of {', '.join(known)}",
        )
    return engine or known[0]


def _notes(target: Target, precision: str, fit: EngineFit) -> list[str]:
    notes = list(fit.notes)
    if precision in UNMEASURED or (
        precision == "int8-dynamic" and target.platform.kind == "jetson"
    ):
        notes.append(f"{precision} does not run on this target's GPU, so no speed is given")
    elif precision == "fp32" and target.platform.kind == "jetson":
        notes.append("no fp32 measurement was published; its speed is extrapolated from fp16")
    return notes


@dataclass(frozen=True)
class _Run:
    """One model at one precision on one target; the power mode is what varies."""

    target: Target
    model: Architecture
    fit: EngineFit
    precision: str
    group_size: int
    context: int
    prompt: int
    batch: int
    float_bytes: int
    extra_bytes: int

    @property
    def measurable(self) -> bool:
        """Whether the engine would run this on the processor that the fit is about."""
        return self.precision not in UNMEASURED and not (
            self.precision == "int8-dynamic" and self.target.platform.kind == "jetson"
        )

    def read_bytes(self, tokens: int | None = None) -> int:
        """Weights that a step on so many tokens reads, as the engine stores them; None for a step that needs every expert."""
        stored = self.fit.stored_bits
        if self.precision in stored:
            return (
                traffic(self.model, stored[self.precision], stored["head"], tokens)
                + self.extra_bytes
            )
        return (
            read_size(self.model, self.precision, self.group_size, self.float_bytes, tokens)
            + self.extra_bytes
        )

    @cached_property
    def paid_bytes(self) -> int:
        """Bytes of weights that a decode step takes as long as: those that it reads, unless there are experts."""
        return mixture_work(self.read_bytes(self.batch), self.read_bytes())

    def decode_tok_s(self, mode: PowerMode) -> float | None:
        """Tokens a second of all sequences."""
        if not self.measurable:
            return None
        terms = decode_terms(
            self.model,
            hardware_of(self.target, mode),
            read_bytes=self.paid_bytes,
            context=self.context,
            batch=self.batch,
            float_bytes=self.float_bytes,
        )
        return self.batch / time_of(terms, self.fit.decode, DECODE_TERMS)

    def ttft_ms(self, mode: PowerMode) -> float | None:
        """Milliseconds to the first token: prefill, but never less than one pass over the weights."""
        if not self.measurable or self.fit.prefill is None:
            return None
        hardware = hardware_of(self.target, mode)
        terms = prefill_terms(self.model, hardware, prompt=self.prompt, batch=self.batch)
        return 1e3 * max(
            time_of(terms, self.fit.prefill, PREFILL_TERMS),
            self.read_bytes(self.batch * self.prompt) / hardware.bandwidth,
        )

    def tokens_per_joule(self) -> dict[str, float]:
        """Decode tokens a joule in every mode that has a watt label."""
        rates = {
            mode.name: (self.decode_tok_s(mode), mode.watts) for mode in self.target.power_modes
        }
        return {
            name: rate / watts
            for name, (rate, watts) in rates.items()
            if rate is not None and watts is not None
        }

    def band(self, band: Band | None, known: bool) -> float | None:
        """The error band that applies, or None where no speed is given."""
        if band is None or not self.measurable:
            return None
        # A mixture is taken for a dense model, as if its shape was inferred.
        inferred = band.inferred or 0.0 if self.model.expert_layers else 0.0
        return max(
            band.known if known else band.new, band.batched if self.batch > 1 else 0.0, inferred
        )
