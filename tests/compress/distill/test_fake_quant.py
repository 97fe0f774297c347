"""Fake quantization: the packed integers, the gradient, and a student that computes with both."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from qat_runs import MakeModel, small
from torch import Tensor

from edgewright.checkpoints.config import read_architecture
from edgewright.checkpoints.layouts import Scheme
from edgewright.checkpoints.loading import load_model
from edgewright.compress.distill.fake_quant import fake_quantize, grid_range, move_into_cells, pack
from edgewright.compress.distill.options import DistillOptions
from edgewright.compress.distill.qat import FakeQuantizedStudent, starting_integers
from edgewright.compress.quantize.gptq import rtn
from edgewright.models import weight_of


def weights(seed: int = 0) -> Tensor:
    return torch.randn(6, 128, generator=torch.Generator().manual_seed(seed)) * 0.1


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("sym", [True, False])
def test_fake_quantized_is_what_the_packed_integers_stand_for(bits: int, sym: bool) -> None:
    start, other = rtn(weights(), Scheme(bits, 32, sym)), weights(1)
    fake = fake_quantize(other, start.scales, start.zeros.float(), bits)
    assert torch.equal(fake, pack(other, start).dequantize())
    assert torch.equal(pack(weights(), start).integers, start.integers)
    assert not torch.equal(fake, other)
    assert float((fake - other).abs().max()) <= float(start.scales.max()) * 2**bits


def test_the_gradient_goes_straight_through() -> None:
    weight = weights().requires_grad_()
    start = rtn(weights(), Scheme(4, 64))
    x = torch.randn(5, 128, generator=torch.Generator().manual_seed(3))
    fake = fake_quantize(weight, start.scales, start.zeros.float(), 4)
    (x @ fake.t()).square().sum().backward()
    rounded = fake.detach().clone().requires_grad_()
    (x @ rounded.t()).square().sum().backward()
    assert weight.grad is not None
    assert rounded.grad is not None
    assert torch.equal(weight.grad, rounded.grad)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("sym", [True, False])
@pytest.mark.parametrize("centred", [0.0, 0.5, 1.0])
def test_weights_are_moved_into_the_cells_of_other_integers(
    bits: int, sym: bool, centred: float
) -> None:
    """GPTQ's integers, too, are not always the nearest."""
    weight = weights()
    plain = rtn(weights(), Scheme(bits, 32, sym))
    shifted = (
        plain.integers.int()
        + torch.randint(-1, 2, (6, 128), generator=torch.Generator().manual_seed(4))
    ).clamp(0, 2**bits - 1)
    start = replace(plain, integers=shifted.to(torch.uint8))
    moved = move_into_cells(weight, start, centred)
    assert torch.equal(pack(moved, start).integers, start.integers)
    if centred == 0.0:  # weights inside their cell, beyond the margin, stay
        inside = (plain.integers == start.integers) & (
            (weight - start.dequantize()).abs() < 0.49 * start.scales.repeat_interleave(32, 1)
        )
        assert torch.equal(moved[inside], weight[inside])
        assert inside.any()
    if centred == 1.0:
        assert torch.equal(moved, start.dequantize())


def test_the_range_is_where_rounding_does_not_clip() -> None:
    start = rtn(weights(), Scheme(4, 128))
    low, high = grid_range(start.scales, start.zeros.float(), 4)
    ends = torch.cat([low, high], 1).repeat_interleave(64, 1)
    fake = fake_quantize(ends, start.scales, start.zeros.float(), 4)
    assert float((fake - ends).abs().max()) <= float(start.scales.max()) * 0.5001
    beyond = fake_quantize(ends * 1.5, start.scales, start.zeros.float(), 4)
    assert torch.equal(beyond, start.scales * torch.tensor([-8.0, 7.0]).repeat_interleave(64))


def test_a_student_computes_with_rounded_weights_and_keeps_its_own(make_model: MakeModel) -> None:
    folder = small(make_model)
    student, plain = load_model(folder), load_model(folder)
    model = read_architecture(folder)
    options = DistillOptions(qat={"bits": 4, "group_size": 64}).qat
    assert options is not None
    start = starting_integers(options, student, model, None)
    ids = torch.arange(24).view(2, 12) * 5 % 512
    low_bit = FakeQuantizedStudent(student, model, start)
    with torch.no_grad():
        fake = student(ids).logits
        for name in start:
            linear = plain.get_submodule(name)
            weight_of(linear).copy_(rtn(weight_of(linear), Scheme(4, 64)).dequantize())
        assert torch.equal(fake, plain(ids).logits)
    names = set(student.state_dict())
    packed = low_bit.finish()
    assert names - set(student.state_dict()) == {
        f"{name}.parametrizations.weight.original" for name in start
    }
    assert all(torch.equal(packed[name].integers, start[name].integers) for name in start)
    assert set(student.state_dict()) == set(plain.state_dict())
