"""A stage ends when the loss on rows that it does not learn on falls no more, and keeps the weights that had the lowest one.

What is watched is the stage's own loss. The weights of the lowest one so far are copied to the memory of the CPU; they are saved with the
rest of the state, so that a run that was killed decides as it would have done.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .stage_options import EarlyStopOptions

__all__ = ["Curve", "Watch", "told"]

Curve = list[list[float]]
"""Steps done and the held-out loss then, one pair after the other."""


class Watch:
    """Held-out losses of one stage, and the weights that had the lowest.

    Args:
        options: how often to measure, and for how long to go on.
        rows: int64 [2, seq] each, to measure on.
    """

    def __init__(self, options: EarlyStopOptions, rows: Sequence[Tensor]) -> None:
        self.options, self.rows = options, rows
        self.curve: Curve = []
        self._best: dict[str, Tensor] = {}

    def due(self, step: int, steps: int) -> bool:
        """Whether to measure after `step` of `steps` steps; before the first, and after the last, always."""
        return step % self.options.every == 0 or step == steps

    def add(self, step: int, loss: float, objective: nn.Module) -> None:
        """Take down the loss after `step` steps, and what learns of the objective if no loss was as low."""
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
        """Whether the loss has not been lower for too long."""
        return (
            len(self.curve) - 1 - self.curve.index(_lowest(self.curve)) >= self.options.patience
            if self.curve
            else False
        )

    @torch.no_grad()
    def put_back(self, objective: nn.Module) -> None:
        """Give the objective the weights of the lowest loss."""
        parameters = dict(objective.named_parameters())
        for name, best in self._best.items():
            parameters[name].copy_(best)

    def state_dict(self) -> dict[str, Any]:
        """What accelerate saves."""
        return {"curve": self.curve, "best": self._best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse."""
        self.curve, self._best = state["curve"], state["best"]


def _lowest(curve: Curve) -> list[float]:
    return min(curve, key=lambda pair: math.inf if math.isnan(pair[1]) else pair[1])


def told(name: str, curve: Curve, steps: int, rows: int) -> str:
    """What to say of a stage that was watched."""
    best, last = _lowest(curve), int(curve[-1][0])
    ended = (
        f"ended after step {last} of {steps}"
        if last < steps
        else f"went on to its last step, {steps}"
    )
    return f"early stop ({name}): {ended}; kept are the weights after step {best[0]:.0f}, whose loss on {rows} held-out rows was {best[1]:.4f}"
