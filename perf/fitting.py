"""The target estimator's coefficients, fitted on published measurements, and how well they hold on what was left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..models.footprint import head_bytes, kv_size, size_of, traffic
from ..targets.roofline import DECODE_TERMS, PREFILL_TERMS, decode_terms, prefill_terms
from .published import STORED_BITS, Row
from .regression import ROOT, Prior, Solution, solve
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
MEMORY = Prior(
    start=(0.15, 6e8, 0.5, 1e6),
    floors=(1.0, 0.0, 0.0, 0.0),
    root=(2.0, 2.0, 2.0, 2.0),
    child=(2.0,) * 4,
    parents={},
)
INSIDE = 0.85
"""Quantile of the errors that a band states. A little more than the 80 % it is meant to hold: few models and boards were seen."""
POOLED, POOLED_NEW = 5.0, 20.0
"""Measurements that those of all engines together count for in the band of one; more for a board or power mode that nobody
measured, since an engine was measured on three boards at most."""
EDGE_LLM_NOTE = (
    "NVIDIA's tables do not state power modes. Their prefill rates stand to each other as the clocks of MAXN on AGX Orin 64GB, "
    "40W on Orin NX 16GB and 15W on Orin Nano 8GB do, so those were taken"
)
BY_HAND = {  # no table was published for ONNX Runtime on a CPU like the profile's
    "decode": {"memory": 1.0, "compute": 7.0, "attention": 7.0, "layers": 0.0, "sequences": 0.0},
    "prefill": {"compute": 1.5, "attention": 1.5, "layers": 0.0},
    "decode_band": {"known": 0.5, "new": 0.5, "batched": 0.5},
    "prefill_band": {"known": 0.5, "new": 0.5, "batched": 0.5},
    "fitted_on": ["cpu:default"],
    "notes": [
        "set by hand from one 2-thread CPU (INT4 weights read at 5.6 - 6.9 GB/s where memory gives 20 - 22), not fitted: "
        "expect no more than the order of magnitude"
    ],
}
CPU_RUNTIME = {
    "base_bytes": 4e8,
    "share": 0.2,
    "notes": ["unconfirmed: Python, ONNX Runtime and its packed copies, a guess"],
}


@dataclass(frozen=True)
class Phase:
    """Measurements of decode or of prefill: what the hardware would need at its peak, and what it took."""

    rows: Sequence[Row]
    terms: Array
    times: Array
    prior: Prior

    @property
    def engines(self) -> list[str]:
        """The engine of each row."""
        return [row.engine for row in self.rows]

    def solve(self, use: NDArray[np.bool_], start: Solution | None = None) -> Solution:
        """The fit on some of the rows; engines that nobody measured teach nothing."""
        use = use & np.array([row.measured_engine for row in self.rows])
        return solve(
            self.terms[use],
            self.times[use],
            [e for e, used in zip(self.engines, use, strict=True) if used],
            self.prior,
            start,
        )

    def logs(self, solution: Solution, terms: Array | None = None) -> Array:
        """Logarithm of measured time over estimated time of every row, which is that of estimated over measured rate."""
        table = self.terms if terms is None else terms
        seconds = [
            float(solution.seconds(e, row)) for e, row in zip(self.engines, table, strict=True)
        ]
        return np.log(self.times) - np.log(seconds)


@dataclass(frozen=True)
class Crossed:
    """Logarithms of estimated over measured decode rate, a row each, where the estimate has not seen ..."""

    fit: Array
    """anything less: in sample."""
    model: Array
    """the row's model."""
    device: Array
    """the row's board."""
    engine: Array
    """the row's engine: its parent stands in."""
    inferred: Array
    """the row's model, nor its name: the shape is inferred from the parameter count."""


def same_model(row: Row) -> str:
    """What rows of one decoder share, whatever it is called: a vision tower or a fine-tuning changes no speed."""
    return str(sorted(row.config.items()))


def decode_phase(rows: Sequence[Row]) -> Phase:
    """Decode measurements."""
    terms = [
        decode_terms(
            r.config, r.hardware, read_bytes=r.read_bytes, context=r.context, batch=r.batch
        )
        for r in rows
    ]
    return Phase(rows, np.array(terms), np.array([r.batch / r.decode_tok_s for r in rows]), DECODE)


def _inferred_terms(rows: Sequence[Row]) -> Array:
    table = []
    for r in rows:
        config = usual_shape(r.params_b)
        bits = STORED_BITS.get(r.engine, {}).get("head", 16.0)
        read = traffic(config, r.bits, max(bits, r.bits))
        table.append(
            decode_terms(config, r.hardware, read_bytes=read, context=r.context, batch=r.batch)
        )
    return np.array(table)


def prefill_phase(rows: Sequence[Row]) -> Phase:
    """Prefill measurements, where there are any and the matrices are known."""
    rows = [r for r in rows if r.prefill_s and r.prompt and r.shape == "known"]
    terms = [prefill_terms(r.config, r.hardware, prompt=r.prompt or 1, batch=r.batch) for r in rows]
    return Phase(rows, np.array(terms), np.array([r.prefill_s or 0.0 for r in rows]), PREFILL)


def held_out(
    phase: Phase, group: Callable[[Row], str], full: Solution, terms: Array | None = None
) -> Array:
    """The logarithms of `Phase.logs`, each from a fit without any row of its group."""
    names = np.array([group(row) for row in phase.rows])
    answer = np.zeros(len(names))
    for name in sorted(set(names)):
        out = names == name
        answer[out] = phase.logs(phase.solve(~out, full), terms)[out]
    return answer


def cross_validate(rows: Sequence[Row]) -> tuple[Solution, Crossed]:
    """The fit on all rows, and its errors on rows left out."""
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
    """What `INSIDE` of the errors stay within, as a relative error: an engine's own, and for a few more everybody's."""
    values = np.abs(np.concatenate([own, pool]))
    weights = np.concatenate([np.ones(len(own)), np.full(len(pool), pooled / max(len(pool), 1))])
    order = np.argsort(values)
    share = np.cumsum(weights[order]) / weights.sum()
    return float(np.expm1(values[order][np.searchsorted(share, INSIDE)]))


def coverage(
    rows: Sequence[Row], logs: Array, group: Callable[[Row], str], seen: Array | None = None
) -> float:
    """Share of rows at batch 1 inside the band that the errors of the other groups would have stated for them.

    Args:
        rows: the measurements.
        logs: their held-out errors.
        group: what was held out together.
        seen: where the boards were held out, the errors on boards that were not: a new board's band is at least theirs.
    """
    names, engines = np.array([group(r) for r in rows]), np.array([r.engine for r in rows])
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
    """Everything that `fit.yaml` holds, and the errors of decode behind it."""
    full, crossed = cross_validate(rows)
    engines = {engine: _decode(engine, rows, full, crossed) for engine in full.nodes}
    first = prefill_phase(rows)
    whole = first.solve(np.ones(len(first.rows), dtype=bool))
    model, device = (
        held_out(first, same_model, whole),
        held_out(first, lambda row: row.target, whole),
    )
    for engine in sorted(set(first.engines)):
        own = np.array([e == engine for e in first.engines])
        known, new = band(model[own], model), band(device[own], device, POOLED_NEW)
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


def fit_runtime(rows: Sequence[Row]) -> dict[str, Any]:
    """Memory beside weights and cache. How much cache the tables reserved is not stated, so the best guess is searched."""
    used = [
        r for r in rows if r.memory is not None and r.shape == "known" and r.engine == "edge-llm"
    ]
    total = np.array([r.memory or 0.0 for r in used])
    tries = []
    for reserved in (1024, 1536, 2048, 2560, 3072, 4096):
        terms = np.array(
            [
                (
                    size_of(r.config, "int4" if r.bits < 8 else "int8" if r.bits < 16 else "fp16")
                    + kv_size(r.config, reserved, r.batch),
                    1.0,
                    head_bytes(r.config, 2) * r.config["tie_word_embeddings"],
                    r.batch,
                )
                for r in used
            ],
            dtype=float,
        )
        factors = solve(terms, total, [ROOT] * len(used), MEMORY).factors(ROOT)
        tries.append((np.abs((terms @ factors) / total - 1), reserved, factors))
    errors, reserved, (share, base, copies, each) = min(tries, key=lambda t: float(t[0].mean()))
    median = _round(float(np.median(errors)))
    return {
        "base_bytes": _round(base),
        "share": _round(share - 1),
        "head_copies": _round(copies),
        "sequence_bytes": _round(each),
        "notes": [
            f"fitted on {len(used)} rows of peak GPU memory (median error {median}), taking {reserved} tokens of cache a sequence, "
            "which the tables do not state"
        ],
    }


def _named(names: tuple[str, ...], values: Array) -> dict[str, float]:
    return {name: _round(float(value)) for name, value in zip(names, values, strict=True)}


def _median(logs: Array) -> float:
    """Median relative error of the rate."""
    return _round(float(np.median(np.abs(np.expm1(logs)))))


def _round(value: float) -> float:
    return float(f"{value:.4g}")
