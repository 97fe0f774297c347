"""Fit the memory that an engine needs in addition to weights and KV cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..models.footprint import head_bytes, size_of
from .published import Row
from .regression import ROOT, Prior, solve

__all__ = ["CPU_RUNTIME", "fit_runtime"]

MEMORY = Prior(
    start=(0.15, 6e8, 0.5, 1e6),
    floors=(1.0, 0.0, 0.0, 0.0),
    root=(2.0, 2.0, 2.0, 2.0),
    child=(2.0,) * 4,
    parents={},
)
CPU_RUNTIME = {
    "base_bytes": 4e8,
    "share": 0.2,
    "notes": ["unconfirmed: Python, ONNX Runtime and its packed copies, a guess"],
}


def fit_runtime(rows: Sequence[Row]) -> dict[str, Any]:
    """Memory needed in addition to weights and cache.

    The tables do not state how much cache was reserved, so several sizes are tried.
    """
    used = [
        r for r in rows if r.memory is not None and r.shape == "known" and r.engine == "edge-llm"
    ]
    total = np.array([r.memory or 0.0 for r in used])
    tries = []
    for reserved in (1024, 1536, 2048, 2560, 3072, 4096):
        terms = np.array(
            [
                (
                    size_of(
                        r.architecture, "int4" if r.bits < 8 else "int8" if r.bits < 16 else "fp16"
                    )
                    + r.architecture.state_bytes(reserved, r.batch),
                    1.0,
                    head_bytes(r.architecture, 2) * r.architecture.tied,
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
            f"fitted on {len(used)} rows of peak GPU memory (median error {median}), taking "
            f"{reserved} tokens of cache a sequence, which the tables do not state"
        ],
    }


def _round(value: float) -> float:
    return float(f"{value:.4g}")
