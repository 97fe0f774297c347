"""Early stopping: end a stage when its held-out loss stops falling, and keep the best weights.

The loss that is measured is the stage's own, on rows that are not trained on. The weights with the
lowest loss are copied to CPU memory. They are saved with the rest of the training state, so an
interrupted run makes the same decision after it resumes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .stage_options import EarlyStopOptions

__all__ = ["Curve", "EarlyStopping", "summarize_early_stop"]

Curve = list[list[float]]
"""Pairs [steps done, held-out loss] in order."""


class EarlyStopping:
    """Held-out losses of one stage, and the weights that had the lowest.

    Args:
        options: how often to measure, and how long to wait for a lower loss.
        rows: held-out rows, int64 [2, seq] each.
    """

    def __init__(self, options: EarlyStopOptions, rows: Sequence[Tensor]) -> None:
        self.options = options
        self.rows = rows
        self.curve: Curve = []
        self._best: dict[str, Tensor] = {}

    def due(self, step: int, steps: int) -> bool:
        """Whether to measure after `step` of `steps` steps; step 0 and the last always are."""
        return step % self.options.every == 0 or step == steps

    def add(self, step: int, loss: float, objective: nn.Module) -> None:
        """Record the loss after `step` steps; copy the trained weights if it is the lowest."""
        lowest = min((known for _, known in self.curve if not math.isnan(known)), default=math.inf)
        self.curve.append([step, loss])
        if loss < lowest:
            self._best = {
                name: p.detach().cpu().clone()
                for name, p in objective.named_parameters()
                if p.requires_grad
            }

    @property
    def over(self) -> bool:
        """Whether the last `patience` measurements found no lower loss."""
        return (
            len(self.curve) - 1 - self.curve.index(_lowest(self.curve)) >= self.options.patience
            if self.curve
            else False
        )

    @torch.no_grad()
    def restore_best(self, objective: nn.Module) -> None:
        """Give the objective the weights of the lowest loss."""
        parameters = dict(objective.named_parameters())
        for name, best in self._best.items():
            parameters[name].copy_(best)

    def state_dict(self) -> dict[str, Any]:
        """Return the state that accelerate saves."""
        return {"curve": self.curve, "best": self._best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state from `state_dict`."""
        self.curve = state["curve"]
        self._best = state["best"]


def _lowest(curve: Curve) -> list[float]:
    return min(curve, key=lambda pair: math.inf if math.isnan(pair[1]) else pair[1])


def summarize_early_stop(name: str, curve: Curve, steps: int, rows: int) -> str:
    """Return one line about a stage with early stopping.

    Args:
        name: of the stage.
        curve: its held-out losses.
        steps: the most it could take.
        rows: number of held-out rows.
    """
    best = _lowest(curve)
    last = int(curve[-1][0])
    ended = (
        f"ended after step {last} of {steps}" if last < steps else f"ran to its last step, {steps}"
    )
    return (
        f"early stop ({name}): {ended}; kept the weights after step {best[0]:.0f}, "
        f"with a loss of {best[1]:.4f} on {rows} held-out rows"
    )
