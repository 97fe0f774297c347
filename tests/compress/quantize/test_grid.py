"""Scales and zero points: the search for the clipping factor, and rounding to the grid."""

from __future__ import annotations

import pytest
import torch
from test_gptq import OUT, WIDTH, random_weight

from edgewright.checkpoints.layouts import Scheme
from edgewright.compress.calibration.hessian import output_error
from edgewright.compress.quantize.gptq import rtn
from edgewright.compress.quantize.grid import fit_grid, round_to_grid


def test_clipping_search_errs_less_than_the_whole_range() -> None:
    weight = random_weight()
    searched, whole = (
        rtn(weight, Scheme(4, 128), mse).dequantize() - weight for mse in (True, False)
    )
    assert searched.abs().pow(2.4).sum() < whole.abs().pow(2.4).sum()
    assert (
        searched.abs().pow(2.4).view(OUT, -1, 128).sum(-1)
        <= whole.abs().pow(2.4).view(OUT, -1, 128).sum(-1)
    ).all()


def test_without_search_the_largest_weight_sets_the_scale() -> None:
    weight = random_weight()
    grid = fit_grid(weight, 4, 128, True, mse=False)
    assert torch.equal(
        grid.scales, (2 * weight.view(OUT, -1, 128).abs().amax(-1) / 15).half().float()
    )
    assert (grid.zeros == 8).all()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("mse", [True, False])
def test_asymmetric_zero_is_never_zero(bits: int, mse: bool) -> None:
    """The layout stores the zero point minus 1, so 0 becomes 15.

    Readers that add one in place would carry it into the neighbouring zero point.
    """
    weight = torch.cat([random_weight().abs(), -random_weight().abs(), torch.zeros(2, WIDTH)])
    packed = rtn(weight, Scheme(bits, 64, False), mse)
    assert packed.zeros.min() >= 1
    assert (packed.dequantize() - weight).abs().max() <= packed.scales.max() * (
        0.51 if not mse else 8
    )


def test_asymmetric_grid_covers_a_lopsided_range() -> None:
    weight = random_weight().abs() + 0.1
    lopsided, middle = (
        output_error(weight, rtn(weight, Scheme(4, 64, sym)).dequantize(), torch.eye(WIDTH))
        for sym in (False, True)
    )
    assert lopsided < 0.5 * middle


def test_rounding_stays_inside_the_range() -> None:
    integers = round_to_grid(
        torch.tensor([-100.0, 0.4, 0.6, 100.0]), torch.tensor(1.0), torch.tensor(8.0), 4
    )
    assert integers.tolist() == [0, 8, 9, 15]
