"""How much the loss changes if a head or neuron is masked, to first order.

Mean over rows of |d loss / d mask|, with one mask value a head or neuron (Michel et al. 2019, "Are
Sixteen Heads Really Better than One?", section 4.1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..criterion import GradientCriterion

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CRITERION"]


def row_scores(gradient: Tensor) -> Tensor:
    """The size [units] of the gradient with respect to the mask."""
    return gradient.abs()


CRITERION = GradientCriterion(
    name="taylor",
    description="effect on the loss, by its gradient",
    row_scores=row_scores,
)
