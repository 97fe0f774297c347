"""The norm of the weights alone. A baseline that uses no data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..criterion import LayerCriterion

if TYPE_CHECKING:
    from torch import Tensor

    from ..layer_statistics import LayerStatistics

__all__ = ["CRITERION"]


def heads(layer: LayerStatistics) -> Tensor:
    """The Frobenius norm [heads] of W_O W_V for every query head.

    This is the one product of weights that fixes the scale of a head: a factor can be moved from
    o_proj to v_proj without a change of the model. With A = W_O^T W_O and B = W_V W_V^T, both
    [head_dim, head_dim], the norm is the square root of tr(A B).
    """
    sizes = layer.attention_sizes
    o = layer.attention_output
    outputs = o.view(len(o), sizes.heads, sizes.head_dim).transpose(0, 1)
    values = layer.values.view(sizes.kv_heads, sizes.head_dim, -1)
    values = values.repeat_interleave(sizes.group, 0)
    return ((outputs.mT @ outputs) * (values @ values.mT)).sum((1, 2)).clamp_min(0).sqrt()


def neurons(layer: LayerStatistics) -> Tensor:
    """The norm [neurons] of the output weights of every neuron."""
    return layer.ffn_output.norm(dim=0)


CRITERION = LayerCriterion(
    name="magnitude",
    description="norm of the weights alone",
    heads=heads,
    neurons=neurons,
)
