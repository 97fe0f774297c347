"""A packed linear layer computes as the dense layer it stands for, and keeps no dense weight."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from edgewright.checkpoints.layouts import Scheme
from edgewright.compress.distill.packed_base import PackedBase
from edgewright.compress.quantize.gptq import rtn


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_layer_is_the_linear_layer_it_stands_for(bits: int, bias: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    grid = rtn(torch.randn(6, 64, generator=generator), Scheme(bits, 32))
    layer = PackedBase(grid, torch.randn(6, generator=generator) if bias else None)
    plain = nn.Linear(64, 6, bias=bias)
    plain.load_state_dict({"weight": grid.dequantize()} | ({"bias": layer.bias} if bias else {}))
    x, y = (
        torch.randn(2, 3, 64, generator=torch.Generator().manual_seed(1)).requires_grad_()
        for _ in range(2)
    )
    torch.testing.assert_close(layer(x), plain(y), rtol=0, atol=0)
    layer(x).square().sum().backward()
    plain(y).square().sum().backward()
    torch.testing.assert_close(x.grad, y.grad)
    assert layer.qweight.numel() == (6 * 32 if bits == 4 else 6 * 64)
    assert not [name for name, _ in layer.named_parameters() if name != "bias"]


def test_no_dequantized_weight_is_kept_for_the_gradient() -> None:
    layer = PackedBase(rtn(torch.randn(256, 512), Scheme(4, 64)), None)
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        layer(torch.randn(2, 512).requires_grad_()).square().sum()
    assert kept and max(kept) <= 2 * 512


def test_mixed_precision_reaches_a_packed_layer() -> None:
    layer = PackedBase(rtn(torch.randn(8, 64), Scheme(4, 64)), torch.randn(8))
    x = torch.randn(2, 64).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
    out.float().sum().backward()
    assert out.dtype == torch.bfloat16
    assert x.grad is not None and x.grad.dtype == torch.float32
    torch.testing.assert_close(x.grad, layer.weight.sum(0).expand(2, -1), rtol=0.05, atol=0.1)
