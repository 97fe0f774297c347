"""SmoothQuant (Xiao et al. 2022): activations lend their outliers to the weights, so that both can be rounded to 8 bits."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["smooth_factors"]

SMALLEST = 1e-5


def smooth_factors(activations: Tensor, weights: Tensor, alpha: float) -> Tensor:
    """Factors on the channels of a writer: peak |x|^alpha / peak |w|^(1 - alpha) (equation 4 of the paper).

    Args:
        activations: float32 [channels], the largest |x| that comes out of each.
        weights: float32 [channels], the largest |w| that reads it.
        alpha: how much of the difficulty moves to the weights, 0 .. 1.

    Returns:
        Positive float32 [channels]; 1 where nothing was ever seen, or nothing reads.
    """
    factors = activations.clamp_min(SMALLEST) ** alpha / weights.clamp_min(SMALLEST) ** (1 - alpha)
    return torch.where(
        (activations > 0) & (weights > 0), factors.clamp(SMALLEST, 1 / SMALLEST), 1.0
    )
