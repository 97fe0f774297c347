"""SmoothQuant (Xiao et al. 2022): move outliers from activations to weights, to round both."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["smooth_factors"]

SMALLEST = 1e-5
"""Smallest peak and smallest factor; 1 / SMALLEST is the largest factor."""


def smooth_factors(activations: Tensor, weights: Tensor, alpha: float) -> Tensor:
    """Factors on channels: peak |x|^alpha / peak |w|^(1 - alpha) (equation 4 of the paper).

    Args:
        activations: float32 [channels], the largest |x| of each channel of the writer.
        weights: float32 [channels], the largest |w| of the weights that read it.
        alpha: how much of the activations' range moves to the weights, 0 .. 1.

    Returns:
        Positive float32 [channels]; 1 where the activations or the weights are all zero.
    """
    factors = activations.clamp_min(SMALLEST) ** alpha / weights.clamp_min(SMALLEST) ** (1 - alpha)
    return torch.where(
        (activations > 0) & (weights > 0), factors.clamp(SMALLEST, 1 / SMALLEST), 1.0
    )
