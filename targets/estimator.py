"""Predict memory, time to first token and tokens a second on a target, from config.json alone.

The model is a roofline with fixed costs (see `roofline`). Its coefficients are in `fit.yaml`, which
`perf/estimator.py` fits on published measurements. Each prediction has the relative error of
measurements that were held out of the fit, so that a plan can say how far to trust it.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from dataclasses import replace

from ..errors import UsageError
from ..models import FORMATS, Architecture
from ..models.footprint import check_precision, head_bytes, size_of
from ..models.kv_cache import element_bytes
from .engine_speed import UNMEASURED, EngineSpeed, float_bytes_on, hardware_of
from .prediction import Prediction
from .profile import Target, usable_bytes
from .roofline import Runtime, load_fit
from .workload import Workload

__all__ = [
    "ENGINES",
    "Prediction",
    "engine_of",
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
MOST_POSITIONS = 131072
"""Positions of a model whose config.json does not limit them."""


def engines(target: Target) -> tuple[str, ...]:
    """Engines whose speed can be predicted on a target; the first is the default."""
    return ENGINES[target.platform.kind]


def engine_of(target: Target, format: str | None) -> str:
    """The engine whose measurements predict the speed of an artifact.

    That is the format's own runtime where measurements of it are known, or else the default.

    Args:
        target: the device.
        format: an export format; None: a checkpoint.
    """
    known = engines(target)
    runtimes = FORMATS[format].runtimes if format else ()
    return next((runtime for runtime in runtimes if runtime in known), known[0])


def runtime_size(
    model: Architecture, runtime: Runtime, held: int, batch: int, float_bytes: int
) -> int:
    """Bytes that an engine needs beside weights and KV cache, which are `held` bytes together."""
    copies = runtime.head_copies * head_bytes(model, float_bytes) if model.tied else 0.0
    return int(runtime.base_bytes + runtime.share * held + copies + runtime.sequence_bytes * batch)


def predict(
    target: Target,
    model: Architecture,
    workload: Workload,
    *,
    power_mode: str | None = None,
    engine: str | None = None,
) -> Prediction:
    """Memory and speed of a model on a target.

    Args:
        target: the device.
        model: the architecture.
        workload: how the model is stored and used.
        power_mode: by name; None: the default of the target.
        engine: one of `engines(target)`; None: the first.

    Raises:
        UsageError: unknown precision, power mode or engine, or a size below 1.
    """
    workload = _checked(workload)
    engine, mode = _engine(target, engine), target.mode(power_mode)
    speed = EngineSpeed(target, model, load_fit().engines[engine], workload)
    known = speed.measurable and f"{target.name}:{mode.name}" in speed.fit.fitted_on
    weights, cache, runtime = _memory(target, model, workload)
    total = weights + cache + runtime
    usable = usable_bytes(target)
    return Prediction(
        target=target.name,
        power_mode=mode.name,
        engine=engine,
        precision=workload.precision,
        kv_cache=workload.kv_cache,
        context=workload.context,
        prompt=workload.prompt,
        batch=workload.batch,
        weight_bytes=weights,
        kv_bytes=cache,
        runtime_bytes=runtime,
        total_bytes=total,
        usable_bytes=usable,
        fits=total <= usable,
        ttft_ms=speed.ttft_ms(mode),
        decode_tok_s=speed.decode_tok_s(mode),
        decode_by_mode=speed.decode_by_mode,
        tokens_per_joule=speed.tokens_per_joule(),
        band=speed.band(speed.fit.decode_band, known),
        ttft_band=speed.band(speed.fit.prefill_band, known),
        notes=tuple(_notes(speed, engine, mode.name, known)),
    )


def longest_context(target: Target, model: Architecture, workload: Workload) -> int:
    """Tokens of KV cache that fit beside the weights, in steps of 64; 0: not even one step.

    The model's positions limit it. Context and prompt of the workload do not matter.
    """
    most = (model.max_positions or MOST_POSITIONS) // 64
    usable = usable_bytes(target)

    def fits(steps: int) -> bool:
        return sum(_memory(target, model, replace(workload, context=64 * steps))) <= usable

    return 64 * (bisect.bisect_left(range(1, most + 1), True, key=lambda steps: not fits(steps)))


def _memory(target: Target, model: Architecture, workload: Workload) -> tuple[int, int, int]:
    """Bytes of weights, of the KV cache of all sequences, and of the engine beside them."""
    precision, batch = workload.precision, workload.batch
    floats = float_bytes_on(target, precision)
    weights = workload.extra_bytes + size_of(
        model,
        precision,
        workload.group_size,
        float_bytes=floats,
        table_bytes=workload.table_bytes,
    )
    element = element_bytes(workload.kv_cache, floats)
    cache = model.state_bytes(
        workload.context, batch, element_bytes=element, whole=workload.whole_cache
    )
    # ONNX Runtime computes int8-dynamic on the CPU cores.
    processor = "cpu" if precision == "int8-dynamic" else target.platform.kind
    fit = load_fit().runtime[processor]
    return weights, cache, runtime_size(model, fit, weights + cache, batch, floats)


def _checked(workload: Workload) -> Workload:
    """The workload with its prompt cut to the context."""
    check_precision(workload.precision)
    if min(workload.context, workload.prompt, workload.batch) < 1:
        raise UsageError("context, prompt and batch must be at least 1", "give positive numbers")
    return replace(workload, prompt=min(workload.prompt, workload.context))


def _engine(target: Target, engine: str | None) -> str:
    known = engines(target)
    if engine is not None and engine not in known:
        raise UsageError(
            f"{target.name}: no measurements of engine `{engine}` to predict from",
            f"use one of {', '.join(known)}",
        )
    return engine or known[0]


def _notes(speed: EngineSpeed, engine: str, mode: str, known: bool) -> Iterator[str]:
    """Limits of a prediction: of the fit, of the precision, of a mixture, of the power mode."""
    yield from speed.fit.notes
    yield from _precision_notes(speed.target, speed.workload.precision)
    if speed.workload.kv_cache == "int8" and speed.measurable:
        yield (
            "the KV cache in 8 bits is counted as fewer bytes to read; nothing was published that "
            "was measured with one"
        )
    if speed.model.expert_layers:
        sizes = (speed.read_bytes(speed.workload.batch), speed.paid_bytes(), speed.read_bytes())
        read, paid, every = (f"{size / 1e9:.2f} GB" for size in sizes)
        yield (
            f"a mixture of experts: a decode step reads {read} of {every}, and by published rates "
            f"takes as long as {paid} would"
        )
    if speed.measurable and not known:
        yield (
            f"nothing published was measured with {engine} on {speed.target.name} in {mode}; "
            "this is extrapolated"
        )


def _precision_notes(target: Target, precision: str) -> Iterator[str]:
    jetson = target.platform.kind == "jetson"
    if precision in UNMEASURED or (precision == "int8-dynamic" and jetson):
        yield f"{precision} does not run on this target's GPU, so no speed is given"
    elif precision == "fp32" and jetson:
        yield "no fp32 measurement was published; its speed is extrapolated from fp16"
