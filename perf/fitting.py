"""Fit the target estimator's coefficients to published measurements, and cross-validate them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..models import architecture
from ..targets.roofline import (
    DECODE_TERMS,
    PREFILL_TERMS,
    VECTOR_TOKENS,
    Kernels,
    TokenPass,
    decode_terms,
    prefill_terms,
)
from .bands import POOLED_NEW, Crossed, band, decode_bands
from .published import Row
from .regression import Prior, Solution, solve
from .runtime_memory import CPU_RUNTIME, fit_runtime
from .shapes import usual_shape
from .spellings import STORED_BITS

__all__ = ["cross_validate", "fit_all", "same_model"]

Array = NDArray[np.float64]
PARENTS = {"ollama": "llama.cpp", "llama.cpp-lowbit": "llama.cpp"}
FEW_TOKENS: dict[str, int] = {"llama.cpp": 8, "llama.cpp-lowbit": 8, "ollama": 8}
"""Tokens of the largest pass through matrix-vector kernels, where it is known: llama.cpp's
`MMVQ_MAX_BATCH_SIZE`."""
DECODE = Prior(
    start=(0.1, 4.0, 4.0, 8.0, 0.5, 0.1),
    floors=(1.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    root=(0.7, 0.8, 0.8, 1.0, 0.7, 1.5),
    child=(0.7, 1.5, 0.4, 1.0, 0.5, 0.5),
    parents=PARENTS,
    derived=0.3,
)
PREFILL = Prior(
    start=(1.0, 0.1, 5.0),
    floors=(1.0, 1.0, 0.0),
    root=(1.0, 1.0, 1.5),
    child=(1.0, 1.0, 1.5),
    parents=PARENTS,
)
EDGE_LLM_NOTE = (
    "NVIDIA's tables do not state power modes. Their prefill rates stand to each other as the "
    "clocks of MAXN on AGX Orin 64GB, 40W on Orin NX 16GB and 15W on Orin Nano 8GB do, so those "
    "were taken"
)
BY_HAND = {  # no table has been published for ONNX Runtime on a CPU like the profile's
    "decode": {
        "memory": 1.0,
        "unpacking": 0.0,
        "compute": 7.0,
        "attention": 7.0,
        "layers": 0.0,
        "sequences": 0.0,
    },
    "prefill": {"compute": 1.5, "attention": 1.5, "layers": 0.0},
    "decode_band": {"known": 0.5, "new": 0.5, "batched": 0.5},
    "prefill_band": {"known": 0.5, "new": 0.5, "batched": 0.5},
    "fitted_on": ["cpu:default"],
    "notes": [
        "set by hand from one 2-thread CPU (INT4 weights read at 5.6 - 6.9 GB/s where memory gives "
        "20 - 22), not fitted: expect no more than the order of magnitude"
    ],
}


@dataclass(frozen=True)
class Phase:
    """Measurements of decode or of prefill whose times are sums of terms.

    Attributes:
        rows: the measurements.
        terms: seconds at the hardware's peak, [rows, terms].
        times: measured seconds, [rows].
        prior: the assumptions for the fit.
    """

    rows: Sequence[Row]
    terms: Array
    times: Array
    prior: Prior

    @property
    def engines(self) -> list[str]:
        """The engine of each row."""
        return [row.engine for row in self.rows]

    def solve(self, out: set[Row] | None = None, start: Solution | None = None) -> Solution:
        """Fit the rows that are not `out`, of engines that were measured themselves."""
        use = np.array([row.measured_engine and row not in (out or ()) for row in self.rows])
        engines = [e for e, used in zip(self.engines, use, strict=True) if used]
        return solve(self.terms[use], self.times[use], engines, self.prior, start)

    def logs(self, solution: Solution) -> Array:
        """Logarithm of measured / estimated time of each row."""
        seconds = [
            float(solution.seconds(e, row)) for e, row in zip(self.engines, self.terms, strict=True)
        ]
        return np.log(self.times) - np.log(seconds)


@dataclass(frozen=True)
class Fitted:
    """Fits of decode and of prefill to the same rows."""

    decode: Solution
    prefill: Solution

    def kernels(self, engine: str) -> Kernels:
        """Coefficients of an engine, or of its nearest fitted ancestor."""
        return Kernels(
            _named(DECODE_TERMS, self.decode.factors(engine)),
            _named(PREFILL_TERMS, self.prefill.factors(engine)),
            FEW_TOKENS.get(engine, VECTOR_TOKENS),
        )

    def log(self, row: Row, *, inferred: bool = False) -> float:
        """Logarithm of estimated / measured decode rate.

        Args:
            row: the measurement.
            inferred: estimate the shape of the model from the number of its parameters.
        """
        shape = architecture(usual_shape(row.params_b)) if inferred else None
        seconds = row.seconds(self.kernels(row.engine), shape)
        return float(np.log(row.batch / row.decode_tok_s / seconds))


def same_model(row: Row) -> str:
    """A key that rows of the same decoder share. Fine-tuning and vision towers change no speed."""
    return str(sorted(row.architecture.config.items()))


def decode_phase(rows: Sequence[Row]) -> Phase:
    """The decode measurements of these rows without a draft, whose time is a sum of terms."""
    rows = [r for r in rows if r.speculation is None and r.batch <= VECTOR_TOKENS]
    terms = [
        decode_terms(TokenPass(r.architecture, r.read_bytes, r.context, r.batch), r.hardware)
        for r in rows
    ]
    return Phase(rows, np.array(terms), np.array([r.batch / r.decode_tok_s for r in rows]), DECODE)


def prefill_phase(rows: Sequence[Row]) -> Phase:
    """The prefill measurements of these rows, where the exact shape is known."""
    rows = [
        r for r in rows if r.prefill_s and r.prompt and r.shape == "known" and not r.speculation
    ]
    terms = [
        prefill_terms(r.architecture, r.hardware, prompt=r.prompt or 1, batch=r.batch) for r in rows
    ]
    return Phase(rows, np.array(terms), np.array([r.prefill_s or 0.0 for r in rows]), PREFILL)


def _groups(rows: Sequence[Row], group: Callable[[Row], str]) -> list[set[Row]]:
    """The rows of each group."""
    names = sorted({group(row) for row in rows})
    return [{row for row in rows if group(row) == name} for name in names]


def held_out(phase: Phase, group: Callable[[Row], str], full: Solution) -> Array:
    """The logarithms of `Phase.logs`, each from a fit without the rows of the same group."""
    found: dict[Row, float] = {}
    for out in _groups(phase.rows, group):
        logs = phase.logs(phase.solve(out, full))
        found |= {row: log for row, log in zip(phase.rows, logs, strict=True) if row in out}
    return np.array([found[row] for row in phase.rows])


def cross_validate(rows: Sequence[Row]) -> tuple[Fitted, Crossed]:
    """Fit all rows, and measure the errors on rows that were left out."""
    decode, prefill = decode_phase(rows), prefill_phase(rows)
    full = Fitted(decode.solve(), prefill.solve())

    def without(group: Callable[[Row], str], *, inferred: bool = False) -> Array:
        found: dict[Row, float] = {}
        for out in _groups(rows, group):
            fitted = Fitted(decode.solve(out, full.decode), prefill.solve(out, full.prefill))
            found |= {row: fitted.log(row, inferred=inferred) for row in out}
        return np.array([found[row] for row in rows])

    return full, Crossed(
        fit=np.array([full.log(row) for row in rows]),
        model=without(same_model),
        device=without(lambda row: row.target),
        engine=without(lambda row: row.engine),
        inferred=without(same_model, inferred=True),
    )


def fit_all(rows: Sequence[Row]) -> tuple[dict[str, Any], Crossed]:
    """The contents of `fit.yaml`, and the errors of decode behind them."""
    full, crossed = cross_validate(rows)
    engines = {engine: _decode(engine, rows, full, crossed) for engine in full.decode.nodes}
    first = prefill_phase(rows)
    model = held_out(first, same_model, full.prefill)
    device = held_out(first, lambda row: row.target, full.prefill)
    for engine in sorted(set(first.engines)):
        own = np.array([e == engine for e in first.engines])
        known = band(model[own], model)
        new = band(device[own], device, POOLED_NEW)
        engines[engine] |= {
            "prefill_band": {
                "known": _round(known),
                "new": _round(max(known, new)),
                "batched": _round(max(known, new)),
            },
            "prefill_rows": int(own.sum()),
        }
        engines[engine]["errors"] |= {
            "prefill_leave_one_model_out": _median(model[own]),
            "prefill_leave_one_device_out": _median(device[own]),
        }
    engines["edge-llm"]["notes"] = [EDGE_LLM_NOTE]
    return {
        "source": "written by perf/estimator.py from published measurements; do not edit",
        "engines": {**engines, "onnxruntime": BY_HAND},
        "runtime": {"jetson": fit_runtime(rows), "cpu": CPU_RUNTIME},
    }, crossed


def _decode(engine: str, rows: Sequence[Row], full: Fitted, crossed: Crossed) -> dict[str, Any]:
    """The entry of an engine in `fit.yaml`, as far as decoding is concerned."""
    own = np.array([r.engine == engine and r.measured_engine for r in rows])
    kernels = full.kernels(engine)
    bands = decode_bands(engine, rows, crossed)
    fitted: dict[str, Any] = {
        "decode": dict(kernels.decode),
        "prefill": dict(kernels.prefill or {}),
        "vector_tokens": kernels.vector_tokens,
        "decode_band": {name: _round(value) for name, value in bands.items()},
        "decode_rows": int(own.sum()),
        "fitted_on": sorted(
            {f"{r.target}:{r.mode}" for r, used in zip(rows, own, strict=True) if used}
        ),
        "errors": {},
    }
    if engine in STORED_BITS:
        fitted["stored_bits"] = dict(STORED_BITS[engine])
    for kind, name in (("single", "decode"), ("batched", "batched"), ("speculative", "drafted")):
        some = own & np.array([r.kind == kind for r in rows])
        if some.any():
            fitted["errors"] |= {
                f"{name}_fit": _median(crossed.fit[some]),
                f"{name}_leave_one_model_out": _median(crossed.model[some]),
                f"{name}_leave_one_device_out": _median(crossed.device[some]),
            }
    return fitted


def _named(names: tuple[str, ...], values: Array) -> dict[str, float]:
    return {name: _round(float(value)) for name, value in zip(names, values, strict=True)}


def _median(logs: Array) -> float:
    """Median relative error of the rate."""
    return _round(float(np.median(np.abs(np.expm1(logs)))))


def _round(value: float) -> float:
    return float(f"{value:.4g}")
