"""Fit the coefficients of many engines at once, with a hierarchical prior.

A time is a sum of terms. Each term is the time at the hardware's peak, multiplied by a factor that
belongs to the engine. Two dozen engines with a few measurements each do not determine five factors
each. So what engines have in common is used: the logarithms of an engine's factors are normally
distributed around those of its parent (Ollama around llama.cpp, llama.cpp around the root, the root
around `start`). An engine with many measurements moves away from its parent.

The logarithms of the times have Student's distribution, which tolerates single wrong values. The
most probable factors are found with the Levenberg-Marquardt method.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

__all__ = ["ROOT", "Prior", "Solution", "solve"]

Array = NDArray[np.float64]
ROOT = "other"
"""The parent of all engines; it stands for an engine without measurements."""
SCATTER = 0.12
"""Scatter of the logarithm of a published time around a perfect estimate."""
FREEDOM = 3.0
"""Degrees of freedom of Student's distribution: the lower, the more outliers are tolerated."""


@dataclass(frozen=True)
class Prior:
    """What is assumed before any measurement. Each field has one entry per term.

    Attributes:
        start: factors of the root above the floors.
        floors: smallest possible factors. Nothing is faster than the memory's peak, so the floor
            of that term is 1.
        root: spread of the logarithms of the root's factors around `start`.
        child: spread around the parent's factors.
        parents: engine -> parent, for engines whose parent is not the root.
        derived: part of `child` that is the spread around a parent that is not the root. Such an
            engine runs its parent's kernels.
    """

    start: tuple[float, ...]
    floors: tuple[float, ...]
    root: tuple[float, ...]
    child: tuple[float, ...]
    parents: Mapping[str, str]
    derived: float = 1.0


@dataclass(frozen=True)
class Solution:
    """Fitted factors. `logs` has their logarithms above the floors, one row for each of `nodes`."""

    prior: Prior
    nodes: tuple[str, ...]
    logs: Array

    def factors(self, engine: str) -> Array:
        """The factors of an engine, or of its nearest fitted ancestor."""
        while engine not in self.nodes:
            engine = self.prior.parents.get(engine, ROOT)
        return np.exp(self.logs[self.nodes.index(engine)]) + np.array(self.prior.floors)

    def seconds(self, engine: str, terms: Array) -> Array:
        """Estimated times for rows of terms, [n, k] -> [n]."""
        return terms @ self.factors(engine)


def solve(
    terms: Array, times: Array, engines: Sequence[str], prior: Prior, start: Solution | None = None
) -> Solution:
    """Find the most probable factors.

    Args:
        terms: seconds at the hardware's peak, [n, k].
        times: measured seconds, [n].
        engines: the engine of each row.
        prior: the assumptions before any measurement.
        start: an earlier solution to begin from; None to begin from the prior.
    """
    named = set(engines) - {ROOT}
    nodes = (ROOT, *sorted(named | {prior.parents[e] for e in named if e in prior.parents}))
    first = np.stack(
        [np.log(start.factors(n) - prior.floors) if start else np.log(prior.start) for n in nodes]
    )
    at = np.array([nodes.index(e) for e in engines])
    state = Solution(prior, nodes, first)
    pull, pull_jacobian = _pulls(state)
    damping = 1e-3
    value = _loss(state, terms, times, at, pull_jacobian, pull)
    for _ in range(100):
        rows, jacobian = _residuals(state, terms, times, at)
        weight = np.sqrt((FREEDOM + 1) / (FREEDOM + (rows / SCATTER) ** 2)) / SCATTER
        full = np.vstack([jacobian * weight[:, None], pull_jacobian])
        gradient = full.T @ np.concatenate(
            [rows * weight, pull_jacobian @ state.logs.ravel() - pull]
        )
        normal = full.T @ full
        gain = 0.0
        while damping < 1e8:
            step = np.linalg.solve(normal + damping * np.diag(np.diag(normal)), gradient)
            trial = replace(state, logs=state.logs - step.reshape(state.logs.shape))
            gain = value - _loss(trial, terms, times, at, pull_jacobian, pull)
            if gain > 0:
                state = trial
                value -= gain
                damping = max(damping / 4, 1e-9)
                break
            damping *= 4
        if gain < 1e-6:
            break
    return state


def _residuals(
    state: Solution, terms: Array, times: Array, at: NDArray[np.int64]
) -> tuple[Array, Array]:
    """Logarithms of estimate / measurement, and their derivatives by the log factors."""
    grown = np.exp(state.logs)
    parts = (grown[at] + np.array(state.prior.floors)) * terms
    total = parts.sum(axis=1)
    jacobian = np.zeros((len(times), *state.logs.shape))
    jacobian[np.arange(len(times)), at] = grown[at] * terms / total[:, None]
    return np.log(total / times), jacobian.reshape(len(times), -1)


def _pulls(state: Solution) -> tuple[Array, Array]:
    """The prior as least squares: `jacobian @ logs - targets` are deviations in units of spread."""
    prior = state.prior
    count, width = state.logs.shape
    jacobian = np.zeros((count, width, count, width))
    targets = np.zeros((count, width))
    for i, node in enumerate(state.nodes):
        spread = np.array(prior.root if node == ROOT else prior.child)
        spread *= prior.derived if node in prior.parents else 1.0
        jacobian[i, range(width), i, range(width)] = 1 / spread
        if node == ROOT:
            targets[i] = np.log(prior.start) / spread
        else:
            jacobian[
                i, range(width), state.nodes.index(prior.parents.get(node, ROOT)), range(width)
            ] = -1 / spread
    return targets.ravel(), jacobian.reshape(count * width, -1)


def _loss(
    state: Solution,
    terms: Array,
    times: Array,
    at: NDArray[np.int64],
    pull_jacobian: Array,
    pull: Array,
) -> float:
    rows, _ = _residuals(state, terms, times, at)
    tails = (FREEDOM + 1) * np.log1p((rows / SCATTER) ** 2 / FREEDOM)
    return float(tails.sum() + ((pull_jacobian @ state.logs.ravel() - pull) ** 2).sum())
