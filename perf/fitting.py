"""Fit the target estimator's coefficients to published measurements, and cross-validate them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..models import architecture
from ..models.footprint import traffic
from ..targets.roofline import DECODE_TERMS, PREFILL_TERMS, decode_terms, prefill_terms
from .published import STORED_BITS, Row
from .regression import ROOT, Prior, Solution, solve
from .runtime_memory import CPU_RUNTIME, fit_runtime
from .shapes import usual_shape

__all__ = ["Crossed", "coverage", "cross_validate", "fit_all", "same_model"]

Array = NDArray[np.float64]
PARENTS = {"ollama": "llama.cpp", "llama.cpp-lowbit": "llama.cpp"}
DECODE = Prior(
    start=(0.1, 8.0, 8.0, 0.5, 0.1),
    floors=(1.0, 0.0, 0.0, 0.0, 0.0),
    root=(0.7, 0.8, 1.0, 0.7, 1.5),
    child=(0.7, 1.0, 1.0, 0.5, 1.0),
    parents=PARENTS,
)
PREFILL = Prior(
    start=(1.0, 0.1, 5.0),
    floors=(1.0, 1.0, 0.0),
    root=(1.0, 1.0, 1.5),
    child=(1.0, 1.0, 1.5),
    parents=PARENTS,
)
INSIDE = 0.85
"""Quantile of the errors that a band states. It is a little more than the 80 % that the band is
meant to contain, because few models and boards were measured."""
POOLED = 5.0
"""The weight of all engines' errors in the band of one engine, as a number of measurements."""
POOLED_NEW = 20.0
"""The same for a board or power mode without measurements. It is higher because an engine was
measured on three boards at most."""
EDGE_LLM_NOTE = (
    "NVIDIA's tables do not state power modes. Their prefill rates stand to each other as the "
    "clocks of MAXN on AGX Orin 64GB, 40W on Orin NX 16GB and 15W on Orin Nano 8GB do, so those "
    "were taken"
)
BY_HAND = {  # no table has been published for ONNX Runtime on a CPU like the profile's
    "decode": {"memory": 1.0, "compute": 7.0, "attention": 7.0, "layers": 0.0, "sequences": 0.0},
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
    """Measurements of decode or of prefill.

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

    def solve(self, use: NDArray[np.bool_], start: Solution | None = None) -> Solution:
        """Fit some of the rows. Rows whose engine was not measured itself are left out."""
        use = use & np.array([row.measured_engine for row in self.rows])
        return solve(
            self.terms[use],
            self.times[use],
            [e for e, used in zip(self.engines, use, strict=True) if used],
            self.prior,
            start,
        )

    def logs(self, solution: Solution, terms: Array | None = None) -> Array:
        """Logarithm of measured / estimated time (= estimated / measured rate) of each row."""
        table = self.terms if terms is None else terms
        seconds = [
            float(solution.seconds(e, row)) for e, row in zip(self.engines, table, strict=True)
        ]
        return np.log(self.times) - np.log(seconds)


@dataclass(frozen=True)
class Crossed:
    """Logarithms of estimated / measured decode rate of each row, for different fits.

    Attributes:
        fit: the fit has seen the row (in-sample).
        model: the row's model was left out of the fit.
        device: the row's board was left out.
        engine: the row's engine was left out; its parent is used.
        inferred: the row's model was left out, and its shape is estimated from its parameters.
    """

    fit: Array
    model: Array
    device: Array
    engine: Array
    inferred: Array


def same_model(row: Row) -> str:
    """A key that rows of the same decoder share. Fine-tuning and vision towers change no speed."""
    return str(sorted(row.architecture.config.items()))


def decode_phase(rows: Sequence[Row]) -> Phase:
    """The decode measurements of these rows."""
    terms = [
        decode_terms(
            r.architecture, r.hardware, read_bytes=r.read_bytes, context=r.context, batch=r.batch
        )
        for r in rows
    ]
    return Phase(rows, np.array(terms), np.array([r.batch / r.decode_tok_s for r in rows]), DECODE)


def _inferred_terms(rows: Sequence[Row]) -> Array:
    """Decode terms of each row if only the number of its parameters were known."""
    table = []
    for r in rows:
        model = architecture(usual_shape(r.params_b))
        bits = STORED_BITS.get(r.engine, {}).get("head", 16.0)
        read = traffic(model, r.bits, max(bits, r.bits))
        table.append(
            decode_terms(model, r.hardware, read_bytes=read, context=r.context, batch=r.batch)
        )
    return np.array(table)


def prefill_phase(rows: Sequence[Row]) -> Phase:
    """The prefill measurements of these rows, where the exact shape is known."""
    rows = [r for r in rows if r.prefill_s and r.prompt and r.shape == "known"]
    terms = [
        prefill_terms(r.architecture, r.hardware, prompt=r.prompt or 1, batch=r.batch) for r in rows
    ]
    return Phase(rows, np.array(terms), np.array([r.prefill_s or 0.0 for r in rows]), PREFILL)


def held_out(
    phase: Phase, group: Callable[[Row], str], full: Solution, terms: Array | None = None
) -> Array:
    """The logarithms of `Phase.logs`, each from a fit without the rows of the same group."""
    names = np.array([group(row) for row in phase.rows])
    answer = np.zeros(len(names))
    for name in sorted(set(names)):
        out = names == name
        answer[out] = phase.logs(phase.solve(~out, full), terms)[out]
    return answer


def cross_validate(rows: Sequence[Row]) -> tuple[Solution, Crossed]:
    """Fit all rows, and measure the errors on rows that were left out."""
    phase = decode_phase(rows)
    full = phase.solve(np.ones(len(rows), dtype=bool))
    return full, Crossed(
        fit=phase.logs(full),
        model=held_out(phase, same_model, full),
        device=held_out(phase, lambda row: row.target, full),
        engine=held_out(phase, lambda row: row.engine, full),
        inferred=held_out(phase, same_model, full, _inferred_terms(rows)),
    )


def band(own: Array, pool: Array, pooled: float = POOLED) -> float:
    """The relative error that `INSIDE` of the errors do not exceed.

    Args:
        own: logarithmic errors of the engine.
        pool: logarithmic errors of all engines.
        pooled: the weight of all of `pool`, as a number of the engine's measurements.
    """
    values = np.abs(np.concatenate([own, pool]))
    weights = np.concatenate([np.ones(len(own)), np.full(len(pool), pooled / max(len(pool), 1))])
    order = np.argsort(values)
    share = np.cumsum(weights[order]) / weights.sum()
    return float(np.expm1(values[order][np.searchsorted(share, INSIDE)]))


def coverage(
    rows: Sequence[Row], logs: Array, group: Callable[[Row], str], seen: Array | None = None
) -> float:
    """The share of rows at batch 1 inside the band that is computed without their group.

    Args:
        rows: the measurements.
        logs: their errors when left out.
        group: what was left out together.
        seen: the errors on known boards, if boards were left out: the band of a new board is at
            least theirs.
    """
    names = np.array([group(r) for r in rows])
    engines = np.array([r.engine for r in rows])
    single = np.array([r.batch == 1 for r in rows])
    inside = []
    for i in np.flatnonzero(single):
        others = single & (names != names[i])
        own = others & (engines == engines[i])
        if seen is None:
            stated = band(logs[own], logs[others])
        else:
            stated = max(band(logs[own], logs[others], POOLED_NEW), band(seen[own], seen[others]))
        inside.append(abs(logs[i]) <= np.log1p(stated))
    return float(np.mean(inside))


def _bands(engine: str, rows: Sequence[Row], crossed: Crossed) -> dict[str, float]:
    """The error bands of an engine, by what is known about a case."""
    single = np.array([r.batch == 1 for r in rows])
    own = np.array([r.engine == engine for r in rows])
    if engine == ROOT:
        unknown = band(crossed.engine[single], crossed.engine[single])
        return {
            "known": _round(unknown),
            "new": _round(unknown),
            "batched": _round(2 * unknown),
            "inferred": _round(unknown),
        }
    known = band(crossed.model[own & single], crossed.model[single])
    new = band(crossed.device[own & single], crossed.device[single], POOLED_NEW)
    batched = band(crossed.model[own & ~single], crossed.model[~single])
    inferred = band(crossed.inferred[own & single], crossed.inferred[single])
    return {
        "known": _round(known),
        "new": _round(max(known, new)),
        "batched": _round(batched),
        "inferred": _round(max(known, inferred)),
    }


def fit_all(rows: Sequence[Row]) -> tuple[dict[str, Any], Crossed]:
    """The contents of `fit.yaml`, and the errors of decode behind them."""
    full, crossed = cross_validate(rows)
    engines = {engine: _decode(engine, rows, full, crossed) for engine in full.nodes}
    first = prefill_phase(rows)
    whole = first.solve(np.ones(len(first.rows), dtype=bool))
    model = held_out(first, same_model, whole)
    device = held_out(first, lambda row: row.target, whole)
    for engine in sorted(set(first.engines)):
        own = np.array([e == engine for e in first.engines])
        known = band(model[own], model)
        new = band(device[own], device, POOLED_NEW)
        engines[engine] |= {
            "prefill": _named(PREFILL_TERMS, whole.factors(engine)),
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


def _decode(engine: str, rows: Sequence[Row], full: Solution, crossed: Crossed) -> dict[str, Any]:
    """The entry of an engine in `fit.yaml`, as far as decoding is concerned."""
    own = np.array([r.engine == engine and r.measured_engine for r in rows])
    single = own & np.array([r.batch == 1 for r in rows])
    fitted: dict[str, Any] = {
        "decode": _named(DECODE_TERMS, full.factors(engine)),
        "decode_band": _bands(engine, rows, crossed),
        "decode_rows": int(own.sum()),
        "fitted_on": sorted(
            {f"{r.target}:{r.mode}" for r, used in zip(rows, own, strict=True) if used}
        ),
        "errors": {},
    }
    if engine in STORED_BITS:
        fitted["stored_bits"] = dict(STORED_BITS[engine])
    if single.any():
        fitted["errors"] = {
            "decode_fit": _median(crossed.fit[single]),
            "decode_leave_one_model_out": _median(crossed.model[single]),
            "decode_leave_one_device_out": _median(crossed.device[single]),
        }
    return fitted


def _named(names: tuple[str, ...], values: Array) -> dict[str, float]:
    return {name: _round(float(value)) for name, value in zip(names, values, strict=True)}


def _median(logs: Array) -> float:
    """Median relative error of the rate."""
    return _round(float(np.median(np.abs(np.expm1(logs)))))


def _round(value: float) -> float:
    return float(f"{value:.4g}")
