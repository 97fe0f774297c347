"""The number of operations of a layer-by-layer calibration, computed from config.json alone."""

from __future__ import annotations

from ...steps.state import State

__all__ = ["layerwise_operations"]


def layerwise_operations(state: State, tokens: int, hessian_tokens: int | None = None) -> float:
    """Floating-point operations to calibrate every linear layer and to compute its new weights.

    Each decoder layer runs once. A weight [n, k] needs a Hessian of some tokens, of which only one
    triangle is computed, its Cholesky factor, and one update per column.

    Args:
        state: the model.
        tokens: calibration tokens of all rows.
        hessian_tokens: tokens per input channel that a Hessian is computed from; None: all.
    """
    model = state.architecture
    solving = 0.0
    for kind, count in model.linear_counts().items():
        inputs = kind.in_features
        seen = min(tokens, hessian_tokens * inputs) if hessian_tokens else tokens
        solving += count * inputs**2 * (seen + 2.0 * kind.out_features + inputs)
    return 2.0 * tokens * state.active_parameters + solving
