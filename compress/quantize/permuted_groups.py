"""GPTQ with permuted groups (`desc_act`): input channels of similar energy share a scale.

The columns are sorted by the energy of their inputs, and groups are consecutive columns in that
order, as in AutoGPTQ without static groups. The cost is a `g_idx`: a kernel must look up the group
of every input channel.
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
    """GPTQ on the columns by decreasing diagonal of the Hessian, with groups in that order.

    Args:
        weight: [out, in].
        hessian: float32 [in, in], the sum of x x^T over the inputs; not changed.
        scheme: bits, group size (which must divide `in`) and symmetry.
        damp: see `gptq`. If the Hessian is unusable, columns are rounded to nearest, in groups of
            consecutive columns.
        refine: see `gptq`.
    """
    order = hessian.diagonal().argsort(descending=True)
    found = gptq(weight[:, order], hessian[order][:, order], scheme, False, damp, refine)
    if found.damp is None:
        return GptqResult(rtn(weight, scheme), None)
    return GptqResult(_restore_order(found.packed, order), found.damp)


def _restore_order(packed: PackedLinear, order: Tensor) -> PackedLinear:
    """Move channel i of a packed layer back to `order[i]`, and record its group in `g_idx`."""
    integers = torch.empty_like(packed.integers)
    integers[:, order] = packed.integers
    groups = torch.arange(len(order), device=order.device) // packed.group_size
    g_idx = torch.empty(len(order), dtype=torch.int32, device=order.device)
    g_idx[order] = groups.to(torch.int32)
    return replace(packed, integers=integers, g_idx=g_idx)
