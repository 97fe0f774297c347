"""Random scores from the seed. A baseline: every other criterion should do better."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..criterion import LayerCriterion

if TYPE_CHECKING:
    from torch import Tensor

    from ..layer_statistics import LayerStatistics

__all__ = ["CRITERION"]


def heads(layer: LayerStatistics) -> Tensor:
    """Scores [heads] in [0, 1)."""
    return _draw(layer)[0]


def neurons(layer: LayerStatistics) -> Tensor:
    """Scores [neurons] in [0, 1)."""
    return _draw(layer)[1]


def _draw(layer: LayerStatistics) -> tuple[Tensor, Tensor]:
    """Scores of heads and neurons from one generator, so that the two are independent."""
    import torch  # late: see `criterion`

    generator = torch.Generator().manual_seed(layer.seed)
    of_heads = torch.rand(layer.attention_sizes.heads, generator=generator)
    return of_heads, torch.rand(layer.neurons, generator=generator)


CRITERION = LayerCriterion(
    name="random",
    description="chance, as a baseline",
    heads=heads,
    neurons=neurons,
    at_random=True,
)
