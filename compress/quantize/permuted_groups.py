"""Act-order with permuted groups (`desc_act`): inputs of like energy share a scale, wherever they are.

The columns are sorted by the energy of their inputs and groups are cut from the sorted row, as AutoGPTQ does without
static groups. The price is a `g_idx`: a kernel must look up the group of every input channel.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ...checkpoints.layouts import PackedLinear, Scheme
from .gptq import GptqResult, gptq, rtn

__all__ = ["permuted_gptq"]


def permuted_gptq(
    weight: Tensor, hessian: Tensor, scheme: Scheme, damp: float, refine: int = 0
) -> GptqResult:
    """GPTQ on the columns in order of decreasing diagonal of the Hessian, with groups cut in that order.

    Args:
        weight: [out, in].
        hessian: float32 [in, in], the sum of x x^T over the inputs; not changed.
        scheme: bits, group size (which must divide `in`) and symmetry.
        damp: see `gptq`. Where the Hessian is unusable, columns are rounded to nearest in groups as they come.
        refine: see `gptq`.
    """
    order = hessian.diagonal().argsort(descending=True)
    found = gptq(weight[:, order], hessian[order][:, order], scheme, False, damp, refine)
    if found.damp is None:
        return GptqResult(rtn(weight, scheme), None)
    return GptqResult(_put_back(found.packed, order), found.damp)


def _put_back(packed: PackedLinear, order: Tensor) -> PackedLinear:
    """The layer with its channels where they were, from one whose channel i was channel `order[i]`."""
    integers, g_idx = (
        torch.empty_like(packed.integers),
        torch.empty(len(order), dtype=torch.int32, device=order.device),
    )
    integers[:, order] = packed.integers
    g_idx[order] = (torch.arange(len(order), device=order.device) // packed.group_size).to(
        torch.int32
    )
    return replace(packed, integers=integers, g_idx=g_idx)
