"""Fold factors on the input channels of linear layers into the operation before them.

The weights of the linear layers (the readers) are multiplied by the factors, and the outputs of
the operation before them (the writer: a norm or a linear layer) are divided by them, so that the
model computes the same (AWQ, Lin et al. 2023, section 3.2; SmoothQuant, Xiao et al. 2022, section
4). The weight of a norm is rounded to the type in which it is stored, and the factors are corrected
for that rounding, so that the product stays exact.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...models import Fold, weight_of

__all__ = ["apply_fold", "channels_of", "divided_norm", "per_channel"]


def channels_of(fold: Fold, width: int) -> Tensor:
    """The writer's channel behind each of the readers' `width` input channels, int64 [width]."""
    places = torch.arange(width)
    head = places // fold.head_dim
    inside = places % fold.head_dim
    return head // fold.repeat * fold.head_dim + inside


def per_channel(values: Tensor, fold: Fold, peak: bool = False) -> Tensor:
    """Mean or peak of the values [width] of the input channels that share a writer's channel.

    Returns:
        [channels of the writer].
    """
    grouped = values.view(-1, fold.repeat, fold.head_dim)
    return (grouped.amax(1) if peak else grouped.mean(1)).reshape(-1)


def divided_norm(
    weight: Tensor, factors: Tensor, offset: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Divide a norm's weight by factors, and correct the factors for the rounding to `dtype`.

    Args:
        weight: float32 [channels], as stored: without `offset`.
        factors: positive float32 [channels].
        offset: constant that the norm adds to its weight.
        dtype: type in which the weight will be stored.

    Returns:
        The new weight, exact in `dtype`, and the corrected factors [channels]. A channel whose
        weight would become zero or infinite keeps its weight.
    """
    scale = weight + offset
    divided = (scale / factors - offset).to(dtype).float()
    lost = (divided + offset == 0) | ~torch.isfinite(divided)
    divided = torch.where(lost, weight, divided)
    return divided, torch.where(lost, 1.0, scale / torch.where(lost, 1.0, divided + offset))


def apply_fold(layer: nn.Module, fold: Fold, factors: Tensor, dtype: torch.dtype) -> Tensor:
    """Divide the writer's outputs by factors and multiply the readers' weights by them, in place.

    Args:
        layer: a decoder layer in float32.
        fold: the writer and the readers in it.
        factors: positive float32 [channels of the writer].
        dtype: type in which norms will be stored.

    Returns:
        The factors on the readers' input channels [in], corrected for the rounding of a norm.
    """
    writer = layer.get_submodule(fold.writer)
    weight = weight_of(writer)
    rows = slice(fold.first, fold.first + len(factors))
    if fold.norm:
        divided, factors = divided_norm(weight, factors, fold.offset, dtype)
        weight.copy_(divided)
    else:
        weight[rows].div_(factors.unsqueeze(1))
    bias = getattr(writer, "bias", None)
    if isinstance(bias, Tensor):
        bias.detach()[rows].div_(factors)
    width = weight_of(layer.get_submodule(fold.readers[0])).shape[1]
    inputs = factors[channels_of(fold, width).to(factors.device)]
    for reader in fold.readers:
        weight_of(layer.get_submodule(reader)).mul_(inputs)
    return inputs
