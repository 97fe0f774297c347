"""The bands of a prediction: how far eight of ten measurements that were left out are from it.

A band is a weighted quantile of errors that were left out ("split conformal prediction", Vovk et
al. 2005, by engine and with some weight of all engines, because few measurements of each exist).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .published import Row
from .regression import ROOT

__all__ = ["POOLED_NEW", "Crossed", "band", "coverage", "decode_bands"]

Array = NDArray[np.float64]
INSIDE = 0.82
"""Quantile of the errors that a band states. It is a little more than the 80 % that the band is
meant to contain, because few models and boards were measured."""
POOLED = 5.0
"""The weight of all engines' errors in the band of one engine, as a number of measurements."""
POOLED_NEW = 20.0
"""The same for a board or power mode without measurements. It is higher because an engine was
measured on three boards at most."""


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
    rows: Sequence[Row],
    logs: Array,
    group: Callable[[Row], str],
    seen: Array | None = None,
) -> NDArray[np.bool_]:
    """Whether each row is inside the band that is computed without its group.

    The band of a known shape is computed from known shapes, the others' from all.

    Args:
        rows: the measurements.
        logs: their errors when left out.
        group: what was left out together.
        seen: the errors on known boards, if boards were left out: the band of a new board is at
            least theirs.
    """
    names = np.array([group(r) for r in rows])
    engines = np.array([r.engine for r in rows])
    kinds = np.array([r.kind for r in rows])
    shaped = np.array([r.shape == "known" for r in rows])
    inside = []
    for i, row in enumerate(rows):
        others = (names != names[i]) & (shaped if shaped[i] else True)
        own = others & (engines == row.engine)
        stated = []
        for kind in {"single", row.kind}:
            one, all_engines = own & (kinds == kind), others & (kinds == kind)
            if not all_engines.any():
                continue
            if seen is not None:
                stated.append(band(seen[one], seen[all_engines]))
            weight = POOLED if seen is None else POOLED_NEW
            stated.append(band(logs[one], logs[all_engines], weight))
        inside.append(abs(logs[i]) <= np.log1p(max(stated)))
    return np.array(inside)


def decode_bands(engine: str, rows: Sequence[Row], crossed: Crossed) -> dict[str, float]:
    """The error bands of an engine, by what is known about a case."""
    kinds = np.array([r.kind for r in rows])
    single = kinds == "single"
    shaped = single & np.array([r.shape == "known" for r in rows])
    own = np.array([r.engine == engine for r in rows])
    if engine == ROOT:
        unknown = band(crossed.engine[single], crossed.engine[single])
        return {"known": unknown, "new": unknown, "batched": 2 * unknown, "inferred": unknown}
    known = band(crossed.model[own & shaped], crossed.model[shaped])
    new = band(crossed.device[own & shaped], crossed.device[shaped], POOLED_NEW)
    sketched = band(crossed.model[own & single], crossed.model[single])
    inferred = band(crossed.inferred[own & single], crossed.inferred[single])
    batched, drafted = kinds == "batched", kinds == "speculative"
    found = {
        "known": known,
        "new": max(known, new),
        "batched": band(crossed.model[own & batched], crossed.model[batched]),
        "inferred": max(known, sketched, inferred),
    }
    if drafted.any():
        found["speculative"] = band(crossed.model[own & drafted], crossed.model[drafted])
    return found
