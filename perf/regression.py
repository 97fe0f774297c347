"""Coefficients of many engines at once: each is drawn towards its parent, as far as its own measurements do not say otherwise.

A time is a sum of terms, each longer than at the hardware's peak by a factor that belongs to the engine. Two dozen engines
with a handful of measurements each do not pin five factors down; what they share does. So the logarithms of the factors are
normally distributed about those of the parent (Ollama about llama.cpp, llama.cpp about the root, the root about `START`),
the logarithms of the times have Student's distribution, which shrugs off a figure that somebody mistyped, and the most
probable factors are found by Levenberg's method.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

__all__ = ["ROOT", "Prior", "Solution", "solve"]

Array = NDArray[np.float64]
ROOT = "other"
"""The parent of all; what is known of an engine that nobody measured."""
SCATTER = 0.12
"""Scatter of the logarithm of a published time about a perfect estimate, and the freedom of its distribution's tails."""
FREEDOM = 3.0


@dataclass(frozen=True)
class Prior:
    """What is believed before any measurement, one entry a term.

    Attributes:
        start: factor of the root above its floor.
        floors: smallest factors. Nothing beats the memory's peak, so that term's is 1.
        root: spread of the logarithm of the root's factors about `start`.
        child: spread about the parent's factors.
        parents: engines whose parent is not the root.
    """

    start: tuple[float, ...]
    floors: tuple[float, ...]
    root: tuple[float, ...]
    child: tuple[float, ...]
    parents: Mapping[str, str]


@dataclass(frozen=True)
class Solution:
    """Logarithms of the factors above their floors, a row a node of the tree."""

    prior: Prior
    nodes: tuple[str, ...]
    logs: Array

    def factors(self, engine: str) -> Array:
        """The factors of an engine, or of its nearest ancestor that was fitted."""
        while engine not in self.nodes:
            engine = self.prior.parents.get(engine, ROOT)
        return np.exp(self.logs[self.nodes.index(engine)]) + np.array(self.prior.floors)

    def seconds(self, engine: str, terms: Array) -> Array:
        """Times of rows of terms, `[n, k]` to `[n]`."""
        return terms @ self.factors(engine)


def solve(
    terms: Array, times: Array, engines: Sequence[str], prior: Prior, start: Solution | None = None
) -> Solution:
    """The most probable factors.

    Args:
        terms: seconds at the peak, `[n, k]`.
        times: measured seconds, `[n]`.
        engines: of each row.
        prior: what is believed beforehand.
        start: an earlier solution to begin from; the prior's own if None.
    """
    named = set(engines) - {ROOT}
    nodes = (ROOT, *sorted(named | {prior.parents[e] for e in named if e in prior.parents}))
    first = np.stack(
        [np.log(start.factors(n) - prior.floors) if start else np.log(prior.start) for n in nodes]
    )
    at = np.array([nodes.index(e) for e in engines])
    state = Solution(prior, nodes, first)
    pull, pull_jacobian = _pulls(state)
    damping, value = 1e-3, _loss(state, terms, times, at, pull_jacobian, pull)
    for _ in range(100):
        rows, jacobian = _residuals(state, terms, times, at)
        weight = np.sqrt((FREEDOM + 1) / (FREEDOM + (rows / SCATTER) ** 2)) / SCATTER
        full = np.vstack([jacobian * weight[:, None], pull_jacobian])
        gradient = full.T @ np.concatenate(
            [rows * weight, pull_jacobian @ state.logs.ravel() - pull]
        )
        normal, gain = full.T @ full, 0.0
        while damping < 1e8:
            step = np.linalg.solve(normal + damping * np.diag(np.diag(normal)), gradient)
            trial = replace(state, logs=state.logs - step.reshape(state.logs.shape))
            gain = value - _loss(trial, terms, times, at, pull_jacobian, pull)
            if gain > 0:
                state, value, damping = trial, value - gain, max(damping / 4, 1e-9)
                break
            damping *= 4
        if gain < 1e-6:
            break
    return state


def _residuals(
    state: Solution, terms: Array, times: Array, at: NDArray[np.int64]
) -> tuple[Array, Array]:
    """Logarithm of estimate over measurement, and how it changes with every log factor."""
    grown = np.exp(state.logs)
    parts = (grown[at] + np.array(state.prior.floors)) * terms
    total = parts.sum(axis=1)
    jacobian = np.zeros((len(times), *state.logs.shape))
    jacobian[np.arange(len(times)), at] = grown[at] * terms / total[:, None]
    return np.log(total / times), jacobian.reshape(len(times), -1)


def _pulls(state: Solution) -> tuple[Array, Array]:
    """The prior as least squares: `jacobian @ logs - targets` are deviations in units of the spread."""
    prior, (count, width) = state.prior, state.logs.shape
    jacobian, targets = np.zeros((count, width, count, width)), np.zeros((count, width))
    for i, node in enumerate(state.nodes):
        spread = np.array(prior.root if node == ROOT else prior.child)
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
