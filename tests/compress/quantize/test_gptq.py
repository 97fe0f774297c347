"""GPTQ as tensor functions: limits, failures, and a slow version from the paper's equations."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from edgewright.checkpoints.layouts import PackedLinear, Scheme
from edgewright.checkpoints.layouts.gptq import Gptq
from edgewright.compress.calibration.hessian import Hessian, output_error
from edgewright.compress.quantize.gptq import feedback_factor, gptq, rtn
from edgewright.compress.quantize.grid import SMALLEST_SCALE, round_to_grid

OUT = 24
WIDTH = 256


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_weight(seed: int = 0, out: int = OUT, width: int = WIDTH) -> Tensor:
    """Rows with a few outliers, as real weights have them."""
    noise = torch.randn(out, width, generator=generator(seed))
    return noise * (1 + 3 * (torch.rand(out, width, generator=generator(seed + 1)) > 0.97))


def correlated_hessian(seed: int = 2, width: int = WIDTH, rows: int = 1024) -> Tensor:
    """A Hessian of inputs that lie mostly in a subspace, with channels of different energy."""
    g = generator(seed)
    mix = torch.randn(width // 4, width, generator=g)
    inputs = torch.randn(rows, width // 4, generator=g) @ mix + 0.3 * torch.randn(
        rows, width, generator=g
    )
    hessian = Hessian(width)
    hessian.add(inputs * torch.logspace(-1, 0.5, width)[torch.randperm(width, generator=g)])
    return hessian.matrix()


def nearest(weight: Tensor, packed: PackedLinear) -> Tensor:
    """The integers of plain rounding on the grid of a packed layer."""
    scales, zeros = (
        t.repeat_interleave(packed.group_size, 1) for t in (packed.scales, packed.zeros)
    )
    return round_to_grid(weight, scales, zeros, packed.bits)


def slow_gptq(
    weight: Tensor, hessian: Tensor, grid: PackedLinear, act_order: bool, damp: float
) -> Tensor:
    """Equations (2) and (3) of the paper, literally.

    Quantize a column, update the others, and eliminate it from the inverse.
    """
    w = weight.double().clone()
    h = hessian.double().clone()
    h.diagonal().add_(damp * h.diagonal().mean())
    inverse = torch.linalg.inv(h)
    order = h.diagonal().argsort(descending=True).tolist() if act_order else range(w.shape[1])
    integers = torch.zeros_like(w)
    left = torch.ones(w.shape[1], dtype=torch.bool)
    for q in order:
        scale = grid.scales[:, q // grid.group_size].double()
        zero = grid.zeros[:, q // grid.group_size].double()
        integers[:, q] = (w[:, q] / scale + zero).round().clamp(0, 2**grid.bits - 1)
        error = (w[:, q] - (integers[:, q] - zero) * scale) / inverse[q, q]
        left[q] = False
        w[:, left] -= torch.outer(error, inverse[q, left])
        inverse = inverse - torch.outer(inverse[:, q], inverse[q]) / inverse[q, q]
    return integers


@pytest.mark.parametrize("act_order", [True, False])
@pytest.mark.parametrize(
    ("bits", "sym", "group", "width"),
    [(4, True, 128, WIDTH), (4, False, 128, WIDTH), (8, True, 32, 160)],
)
def test_matches_the_papers_equations(
    act_order: bool, bits: int, sym: bool, group: int, width: int
) -> None:
    weight = random_weight(width=width)
    hessian = correlated_hessian(width=width)
    plain = rtn(weight, Scheme(bits, group, sym))
    ours = gptq(weight, hessian, Scheme(bits, group, sym), act_order, damp=0.01)
    expected = slow_gptq(weight, hessian, ours.packed, act_order, damp=0.01)
    assert ours.damp == 0.01
    assert (
        ours.packed.integers.double() == expected
    ).double().mean() > 0.99  # float32 and float64 may part at a tie
    assert (
        plain.integers.double() == expected
    ).double().mean() < 0.9  # or the line above would prove nothing
    theirs = replace(ours.packed, integers=expected.to(torch.uint8)).dequantize()
    assert output_error(weight, ours.packed.dequantize(), hessian) == pytest.approx(
        output_error(weight, theirs, hessian), rel=0.02
    )


def test_feedback_is_a_factor_of_the_damped_hessian() -> None:
    hessian = correlated_hessian()
    order = torch.randperm(WIDTH, generator=generator(8))
    factor, costs, damp = feedback_factor(hessian, 0.01, order)
    assert factor is not None
    assert damp == 0.01
    damped = hessian + 0.01 * hessian.diagonal().mean() * torch.eye(WIDTH)
    torch.testing.assert_close(
        factor @ torch.diag(costs) @ factor.t(), damped[order][:, order], rtol=1e-3, atol=1e-2
    )
    assert torch.equal(factor, factor.triu())
    assert torch.equal(factor.diagonal(), torch.ones(WIDTH))


def test_order_makes_a_difference() -> None:
    weight = random_weight()
    hessian = correlated_hessian()
    ordered, plain = (
        gptq(weight, hessian, Scheme(4, 128), act_order).packed for act_order in (True, False)
    )
    assert not torch.equal(ordered.integers, plain.integers)


@pytest.mark.parametrize("act_order", [True, False])
@pytest.mark.parametrize(("bits", "sym"), [(4, True), (4, False), (8, True)])
def test_independent_inputs_leave_nothing_to_make_up_for(
    act_order: bool, bits: int, sym: bool
) -> None:
    weight = random_weight()
    diagonal = torch.diag(torch.rand(WIDTH, generator=generator(3)) + 0.1)
    packed = gptq(weight, diagonal, Scheme(bits, 64, sym), act_order).packed
    assert torch.equal(packed.integers.float(), nearest(weight, packed))


@pytest.mark.parametrize("act_order", [True, False])
@pytest.mark.parametrize("sym", [True, False])
def test_beats_rounding_on_correlated_inputs(act_order: bool, sym: bool) -> None:
    weight = random_weight()
    hessian = correlated_hessian()
    ours = output_error(
        weight, gptq(weight, hessian, Scheme(4, 128, sym), act_order).packed.dequantize(), hessian
    )
    plain = output_error(weight, rtn(weight, Scheme(4, 128, sym)).dequantize(), hessian)
    assert ours < 0.5 * plain


def test_smaller_groups_err_less() -> None:
    weight = random_weight()
    hessian = correlated_hessian()
    errors = [
        output_error(weight, gptq(weight, hessian, Scheme(4, group)).packed.dequantize(), hessian)
        for group in (32, 64, 128, 256)
    ]
    assert errors == sorted(errors)
    assert errors[0] < errors[-1]


def test_eight_bits_err_less_than_four() -> None:
    weight = random_weight()
    hessian = correlated_hessian()
    four, eight = (
        output_error(weight, gptq(weight, hessian, Scheme(b, 128)).packed.dequantize(), hessian)
        for b in (4, 8)
    )
    assert eight < four / 50


@pytest.mark.parametrize("sym", [True, False])
@pytest.mark.parametrize("factor", [1.0, 1e-7, 300.0])
def test_every_scale_is_an_exact_positive_float16(sym: bool, factor: float) -> None:
    weight = random_weight() * factor
    weight[0] = 0
    scales = gptq(weight, correlated_hessian(), Scheme(4, 64, sym)).packed.scales
    assert torch.equal(scales, scales.half().float())
    assert scales.min() >= SMALLEST_SCALE
    assert torch.isfinite(scales).all()


def test_groups_stay_contiguous_with_act_order() -> None:
    weight = random_weight()
    hessian = correlated_hessian()
    packed = gptq(weight, hessian, Scheme(4, 64), act_order=True).packed
    assert Gptq().write(packed)["g_idx"].tolist() == [k // 64 for k in range(WIDTH)]
    assert (
        packed.dequantize() - weight
    ).abs().max() < 3 * packed.scales.max()  # integers stand at their own columns


def test_singular_hessian_takes_more_damping() -> None:
    one = torch.randn(1, WIDTH, generator=generator(5))
    result = gptq(random_weight(), one.t() @ one, Scheme(4, 128), damp=1e-6)
    assert result.damp is not None
    assert result.damp in [pytest.approx(1e-6 * 10**n) for n in (1, 2, 3)]


def test_damping_goes_up_tenfold_until_it_helps() -> None:
    basis = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator(6)))[0]
    eigenvalues = torch.ones(WIDTH)
    eigenvalues[0] = -0.05
    assert gptq(
        random_weight(), basis @ torch.diag(eigenvalues) @ basis.t(), Scheme(4, 128), damp=0.001
    ).damp == pytest.approx(0.1)


def broken(kind: str) -> Tensor:
    hessian = correlated_hessian()
    if kind == "nan on the diagonal":
        hessian[3, 3] = float("nan")
    elif kind == "nan beside it":
        hessian[3, 4] = hessian[4, 3] = float("nan")
    elif kind == "infinite":
        hessian[3, 3] = float("inf")
    elif kind == "zero":
        hessian.zero_()
    else:
        basis = torch.linalg.qr(hessian)[0]
        hessian = torch.eye(WIDTH) - 21 * torch.outer(
            basis[0], basis[0]
        )  # more than ten times the mean below zero
    return hessian


@pytest.mark.parametrize(
    "kind",
    ["nan on the diagonal", "nan beside it", "infinite", "zero", "far from positive definite"],
)
def test_unusable_hessian_falls_back_to_rounding(kind: str) -> None:
    weight = random_weight()
    result = gptq(weight, broken(kind), Scheme(4, 128))
    assert result.damp is None
    assert torch.equal(result.packed.integers, rtn(weight, Scheme(4, 128)).integers)


@pytest.mark.parametrize("act_order", [True, False])
def test_dead_inputs_keep_their_rounded_weight(act_order: bool) -> None:
    weight = random_weight()
    hessian = correlated_hessian()
    dead = torch.tensor([0, 17, 130, 255])
    hessian[dead] = 0
    hessian[:, dead] = 0
    result = gptq(weight, hessian, Scheme(4, 128), act_order)
    plain = rtn(weight, Scheme(4, 128))
    packed = result.packed
    assert torch.equal(packed.integers[:, dead].float(), nearest(weight, packed)[:, dead])
    assert result.packed.dequantize()[:, dead].abs().sum(0).min() > 0
    assert not torch.equal(result.packed.integers, plain.integers)


@pytest.mark.parametrize("factor", [2.0**20, 2.0**-20, 3.7])
def test_scale_of_the_hessian_does_not_matter(factor: float) -> None:
    weight = random_weight(out=256)  # one near-tie changes much of its row
    hessian = correlated_hessian()
    same = (
        gptq(weight, hessian * factor, Scheme(4, 128)).packed.integers
        == gptq(weight, hessian, Scheme(4, 128)).packed.integers
    )
    assert same.all() if factor != 3.7 else same.float().mean() > 0.99


def test_inputs_are_left_alone() -> None:
    weight = random_weight()
    hessian = correlated_hessian()
    before = weight.clone(), hessian.clone()
    gptq(weight, hessian, Scheme(4, 128))
    assert torch.equal(weight, before[0])
    assert torch.equal(hessian, before[1])


def test_hessian_is_the_sum_of_outer_products() -> None:
    inputs = torch.randn(2, 5, 8, generator=generator(7)).to(torch.bfloat16)
    collected = Hessian(8)
    collected.add(inputs)
    collected.add(inputs[0])
    hessian = collected.matrix()
    rows = [*inputs[0].double(), *inputs[1].double(), *inputs[0].double()]
    torch.testing.assert_close(
        hessian.double(),
        torch.stack([torch.outer(x, x) for x in rows]).sum(0),
        rtol=1e-5,
        atol=1e-5,
    )


def test_output_error_is_that_of_the_outputs() -> None:
    weight = random_weight()
    inputs = torch.randn(64, WIDTH, generator=generator(8))
    collected = Hessian(WIDTH)
    collected.add(inputs)
    hessian = collected.matrix()
    rounded = rtn(weight, Scheme(4, 64)).dequantize()
    expected = (inputs @ (rounded - weight).t()).square().sum() / (
        inputs @ weight.t()
    ).square().sum()
    assert output_error(weight, rounded, hessian) == pytest.approx(float(expected), rel=1e-3)
    assert output_error(weight, weight, hessian) == 0
