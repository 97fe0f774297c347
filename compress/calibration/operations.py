"""How many operations a pass over all layers takes, from config.json alone."""

from __future__ import annotations

from ...models import family_of
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
    family = family_of(state.config)
    counts = family.linear_counts(state.config)
    solving = sum(
        counts[name] * (2.0 * n * k * k + k**3)
        for name, (n, k) in family.linear_shapes(state.config).items()
    )
    passes = len(family.input_groups) + 1
    return 2.0 * tokens * state.active_parameters * passes + solving
