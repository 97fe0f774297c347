"""The number of operations of a layer-by-layer calibration, computed from config.json alone."""

from __future__ import annotations

from ...steps.state import State

__all__ = ["layerwise_operations"]


def layerwise_operations(state: State, tokens: int) -> float:
    """Floating-point operations to calibrate every linear layer and to compute its new weights.

    Each decoder layer runs once for every group of linear layers that share an input, and once for
    its output. A weight [n, k] needs the Cholesky factor of a [k, k] matrix, and one update per
    column.

    Args:
        state: the model.
        tokens: calibration tokens of all rows.
    """
    model = state.architecture
    solving = sum(
        count * (2.0 * kind.out_features * kind.in_features**2 + kind.in_features**3)
        for kind, count in model.linear_counts().items()
    )
    passes = max(layer.depth for layer in model.layers) + 1
    return 2.0 * tokens * state.active_parameters * passes + solving
