"""Refinement after GPTQ: it lowers the error, and ends at a local optimum."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_gptq import WIDTH, correlated_hessian, generator, random_weight

from edgewright.checkpoints.layouts import Scheme
from edgewright.compress.calibration.hessian import output_error
from edgewright.compress.quantize.gptq import gptq, rtn
from edgewright.compress.quantize.grid import Grid
from edgewright.compress.quantize.refine import refine_scales, refine_weights


@pytest.mark.parametrize("sym", [True, False])
def test_refining_only_ever_helps(sym: bool) -> None:
    weight = random_weight()
    hessian = correlated_hessian()
    errors = [
        output_error(
            weight, gptq(weight, hessian, Scheme(4, 64, sym), refine=n).packed.dequantize(), hessian
        )
        for n in (0, 1, 3)
    ]
    assert errors[1] < 0.99 * errors[0]
    assert errors[2] < errors[1]


def test_refined_integers_cannot_be_improved_one_at_a_time() -> None:
    """After enough sweeps, changing any single integer by one does not lower the error."""
    weight = random_weight(out=3)
    hessian = correlated_hessian()
    hessian.diagonal().add_(0.01 * hessian.diagonal().mean())
    packed = rtn(weight, Scheme(4, 64))
    grid = Grid(packed.scales, packed.zeros.float(), 4)
    order = torch.randperm(WIDTH, generator=generator(4))
    integers = packed.integers.float()
    for _ in range(60):
        integers = refine_weights(weight, hessian, integers, grid, order)
    scales = packed.scales.repeat_interleave(64, 1)
    off = (integers - 8) * scales - weight
    slope = 2 * (off @ hessian) * scales
    curve = hessian.diagonal() * scales.square()
    for step, allowed in ((1, integers < 15), (-1, integers > 0)):
        assert ((step * slope + curve)[allowed] > -1e-3 * curve.mean()).all()


def test_refined_scales_are_the_least_squares_ones() -> None:
    weight = random_weight()
    hessian = correlated_hessian()
    packed = rtn(weight, Scheme(4, 64))
    grid = refine_scales(
        weight, hessian, packed.integers.float(), Grid(packed.scales, packed.zeros.float(), 4)
    )
    best = output_error(weight, replace(packed, scales=grid.scales).dequantize(), hessian)
    assert best < output_error(weight, packed.dequantize(), hessian)
    for factor in (0.995, 1.005):
        for group in range(WIDTH // 64):
            scales = grid.scales.clone()
            scales[:, group] *= factor
            assert output_error(weight, replace(packed, scales=scales).dequantize(), hessian) > best
