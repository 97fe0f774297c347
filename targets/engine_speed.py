"""The speed of an engine that runs one model on one target, from the fitted roofline."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from ..models import Architecture
from ..models.footprint import float_bytes_of, mixture_work, read_size, traffic
from ..models.kv_cache import element_bytes
from .profile import PowerMode, Target
from .roofline import (
    PREFILL_TERMS,
    Band,
    EngineFit,
    Hardware,
    TokenPass,
    pass_seconds,
    prefill_terms,
    time_of,
)
from .workload import Workload

__all__ = ["UNMEASURED", "EngineSpeed", "float_bytes_on", "hardware_of"]

UNMEASURED = ("fp8", "int3", "int2")
"""Precisions for which no known board has kernels."""


def float_bytes_on(target: Target, precision: str) -> int:
    """Bytes of a parameter that is not quantized.

    Graphs for CPUs keep embedding and head in float32.
    """
    if target.platform.kind == "cpu" and precision not in ("fp16", "bf16"):
        return 4
    return float_bytes_of(precision)


def hardware_of(target: Target, mode: PowerMode) -> Hardware:
    """Reachable bandwidth, compute and clock of a power mode."""
    return Hardware(
        bandwidth=target.bandwidth(mode),
        macs=target.tflops(mode) * 1e12 / 2,
        clock=mode.gpu_mhz * 1e6 if mode.gpu_mhz else None,
    )


@dataclass(frozen=True)
class EngineSpeed:
    """One engine that runs one workload on one target, in any power mode."""

    target: Target
    model: Architecture
    fit: EngineFit
    workload: Workload

    @property
    def float_bytes(self) -> int:
        """Bytes of a parameter that is not quantized."""
        return float_bytes_on(self.target, self.workload.precision)

    @property
    def measurable(self) -> bool:
        """Whether the workload runs on the processor that the fit is about."""
        precision = self.workload.precision
        return precision not in UNMEASURED and not (
            precision == "int8-dynamic" and self.target.platform.kind == "jetson"
        )

    def read_bytes(self, tokens: int | None = None) -> int:
        """Bytes of weights that a step reads, as the engine stores them.

        Args:
            tokens: tokens of the step, which decide how many experts it reads; None: all experts.
        """
        stored, work = self.fit.stored_bits, self.workload
        if work.precision in stored:
            size = traffic(self.model, stored[work.precision], stored["head"], tokens)
        else:
            size = read_size(
                self.model,
                work.precision,
                work.group_size,
                self.float_bytes,
                tokens,
                work.table_bytes,
            )
        return size + work.extra_bytes

    def paid_bytes(self, tokens: int = 1) -> int:
        """Bytes of weights that a pass over `tokens` of each sequence takes the time of.

        For a dense model it reads so many. With experts it takes longer than its reads alone.
        """
        return mixture_work(self.read_bytes(self.workload.batch * tokens), self.read_bytes())

    def pass_seconds(self, mode: PowerMode, tokens: int = 1, *, samples: bool = True) -> float:
        """Seconds of one pass over the next `tokens` of every sequence; see `TokenPass`."""
        work = self._step
        if tokens > 1 or not samples:
            read = self.paid_bytes(tokens)
            work = replace(work, read_bytes=read, tokens=tokens, samples=samples)
        return pass_seconds(work, hardware_of(self.target, mode), self.fit.kernels)

    @cached_property
    def _step(self) -> TokenPass:
        """The pass over one token of every sequence; the power modes share it."""
        work = self.workload
        return TokenPass(
            self.model,
            self.paid_bytes(),
            work.context,
            work.batch,
            cache_bytes=element_bytes(work.kv_cache, self.float_bytes),
        )

    def decode_tok_s(self, mode: PowerMode) -> float | None:
        """Tokens a second of all sequences."""
        if not self.measurable:
            return None
        return self.workload.batch / self.pass_seconds(mode)

    def ttft_ms(self, mode: PowerMode) -> float | None:
        """Milliseconds to the first token: the prefill, but at least one read of the weights."""
        if not self.measurable or self.fit.prefill is None or self.fit.prefill_band is None:
            return None
        batch, prompt = self.workload.batch, self.workload.prompt
        hardware = hardware_of(self.target, mode)
        terms = prefill_terms(self.model, hardware, prompt=prompt, batch=batch)
        return 1e3 * max(
            time_of(terms, self.fit.prefill, PREFILL_TERMS),
            self.read_bytes(batch * prompt) / hardware.bandwidth,
        )

    def tokens_per_joule(self) -> dict[str, float]:
        """Decode tokens a joule in every mode that has a watt label."""
        rates, modes = self.decode_by_mode, self.target.power_modes
        return {mode.name: rates[mode.name] / mode.watts for mode in modes if rates and mode.watts}

    @cached_property
    def decode_by_mode(self) -> dict[str, float]:
        """Decode tokens a second in every power mode; empty: no published measurements."""
        rates = {mode.name: self.decode_tok_s(mode) for mode in self.target.power_modes}
        return {name: rate for name, rate in rates.items() if rate is not None}

    def band(self, band: Band | None, known: bool, drafted: bool = False) -> float | None:
        """The error band that applies, or None if no speed is given.

        Args:
            band: that of the engine for decode or prefill.
            known: whether measurements of this board and power mode were fitted.
            drafted: whether a draft model proposes tokens.
        """
        if band is None or not self.measurable:
            return None
        # The fit has dense models only. A mixture gets the band of models of inferred shape.
        inferred = band.inferred or 0.0 if self.model.expert_layers else 0.0
        batched = band.batched if self.workload.batch > 1 else 0.0
        speculative = band.speculative or 0.0 if drafted else 0.0
        return max(band.known if known else band.new, batched, inferred, speculative)
