"""Moving a factor on the input channels of linear layers into the operation before them, which leaves the model as it was.

The readers' weights are multiplied by the factors and the writer's outputs divided by them (AWQ, Lin et al. 2023, section 3.2;
SmoothQuant, Xiao et al. 2022, section 4). A norm is divided as it will be stored: what rounding to half precision changes in it,
the factors take up, so that the product stays exact.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...models import Fold, weight_of

__all__ = ["apply_fold", "channels_of", "divided_norm", "per_channel"]


def channels_of(fold: Fold, width: int) -> Tensor:
    """The writer's channel behind each of the readers' `width` input channels, int64 [width]."""
    places = torch.arange(width)
    head, inside = places // fold.head_dim, places % fold.head_dim
    return head // fold.repeat * fold.head_dim + inside


def per_channel(values: Tensor, fold: Fold, peak: bool = False) -> Tensor:
    """The mean, or the largest, of the values [width] of the input channels that share a writer's channel: [channels]."""
    grouped = values.view(-1, fold.repeat, fold.head_dim)
    return (grouped.amax(1) if peak else grouped.mean(1)).reshape(-1)


def divided_norm(
    weight: Tensor, factors: Tensor, offset: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """A norm's weight after its outputs are divided by `factors`, and the factors that this comes to in `dtype`.

    Args:
        weight: float32 [channels], as it is stored: without `offset`.
        factors: positive float32 [channels].
        offset: what the norm adds to its weight.
        dtype: what the weight will be stored in.

    Returns:
        The new weight, exact in `dtype`, and the factors [channels]; a channel that rounding would silence keeps its weight.
    """
    scale = weight + offset
    divided = (scale / factors - offset).to(dtype).float()
    lost = (divided + offset == 0) | ~torch.isfinite(divided)
    divided = torch.where(lost, weight, divided)
    return divided, torch.where(lost, 1.0, scale / torch.where(lost, 1.0, divided + offset))


def apply_fold(layer: nn.Module, fold: Fold, factors: Tensor, dtype: torch.dtype) -> Tensor:
    """Divide the writer's outputs by `factors` and multiply what the readers make of them, in place.

    Args:
        layer: a decoder layer in float32.
        fold: which of its modules.
        factors: positive float32 [channels of the writer].
        dtype: what norms and biases will be stored in.

    Returns:
        The factors on the readers' input channels [in], after the rounding of a norm.
    """
    writer = layer.get_submodule(fold.writer)
    weight = weight_of(writer)
    if fold.norm:
        divided, factors = divided_norm(weight, factors, fold.offset, dtype)
        weight.copy_(divided)
    else:
        weight.div_(factors.unsqueeze(1))
        bias = getattr(writer, "bias", None)
        if isinstance(bias, Tensor):
            bias.detach().div_(factors)
    inputs = factors[
        channels_of(fold, weight_of(layer.get_submodule(fold.readers[0])).shape[1]).to(
            factors.device
        )
    ]
    for reader in fold.readers:
        weight_of(layer.get_submodule(reader)).mul_(inputs)
    return inputs
