"""What an importance criterion is. The criteria themselves are the files of `criteria/`.

This module and those files import torch only inside functions: the names and descriptions of the
criteria appear in `--help` and in the recipe schema, which must not wait for torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from .layer_statistics import LayerStatistics

__all__ = ["Criterion", "GradientCriterion", "LayerCriterion"]


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """A measure of how important query heads and FFN neurons are. Larger scores are better.

    Attributes:
        name: what users type; the file has the same name.
        description: a few words for the help.
        at_random: scores are random numbers; experts are then chosen at random too.
    """

    name: str
    description: str
    at_random: bool = False

    @property
    def needs_gradient(self) -> bool:
        """Whether the whole model must be in memory, and every row takes a backward pass."""
        return False

    @property
    def needs_calibration(self) -> bool:
        """Whether the scores of heads and neurons depend on the calibration text."""
        return True


@dataclass(frozen=True, kw_only=True)
class GradientCriterion(Criterion):
    """A criterion that needs gradients of the loss. The score is the mean over calibration rows.

    Attributes:
        row_scores: scores [units] for one row. Its argument is the gradient [units] of the row's
            loss with respect to a mask of ones, one factor a head or neuron.
    """

    row_scores: Callable[[Tensor], Tensor]

    @property
    def needs_gradient(self) -> bool:
        """See `Criterion.needs_gradient`."""
        return True


@dataclass(frozen=True, kw_only=True)
class LayerCriterion(Criterion):
    """A criterion that scores one decoder layer at a time, so the model need not fit in memory.

    Attributes:
        heads: scores [heads] of the query heads of a layer.
        neurons: scores [neurons] of the FFN neurons of a layer. Not called for a layer of experts.
        observe: what to sum over calibration tokens, if anything. It gets the input of an output
            projection, float32 [..., units * size], and `size`, the channels of one head or
            neuron. Its result [..., n] is averaged over tokens to `head_mean` and `neuron_mean`.
    """

    heads: Callable[[LayerStatistics], Tensor]
    neurons: Callable[[LayerStatistics], Tensor]
    observe: Callable[[Tensor, int], Tensor] | None = None

    @property
    def needs_calibration(self) -> bool:
        """See `Criterion.needs_calibration`."""
        return self.observe is not None
