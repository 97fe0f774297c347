"""How many operations a pass over all layers takes, from config.json alone."""

from __future__ import annotations

from ...steps.state import State

__all__ = ["layerwise_operations"]


def layerwise_operations(state: State, tokens: int) -> float:
    """Floating-point operations to calibrate every linear layer and to solve for its weights.

    Each layer runs once for every group of linear layers with one input and once for its output;
    solving takes the Cholesky factor of a [k, k] matrix and one update per column.

    Args:
        state: model whose layers are solved for.
        tokens: calibration tokens, all rows together.
    """
    model = state.architecture
    solving = sum(
        count * (2.0 * kind.out_features * kind.in_features**2 + kind.in_features**3)
        for kind, count in model.linear_counts().items()
    )
    passes = max(layer.depth for layer in model.layers) + 1
    return 2.0 * tokens * state.active_parameters * passes + solving
