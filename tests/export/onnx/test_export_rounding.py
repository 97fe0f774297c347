"""Rounding of weights as they are exported."""

from __future__ import annotations

import pytest
import torch

from edgewright.errors import Refused
from edgewright.export.onnx.packed_tables import pack_table
from edgewright.export.onnx.rounding import rounded


def weights(rows: int, width: int) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("bits", "block"), [(8, 128), (4, 32)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_weight_is_at_most_half_a_step_away_or_clipped(
    bits: int, block: int, dtype: torch.dtype
) -> None:
    weight = weights(700, 256).to(dtype)  # several chunks of rows
    packed = rounded(weight, "table", bits, (block,))
    assert packed.sym
    assert packed.group_size == block
    steps = packed.scales.repeat_interleave(block, 1)
    low, high = (-steps * 2 ** (bits - 1), steps * (2 ** (bits - 1) - 1))
    inside = torch.minimum(torch.maximum(weight.float(), low), high)
    assert ((packed.dequantize() - inside).abs() <= steps * 0.5001).all()


def test_4_bits_search_the_scale() -> None:
    weight = weights(64, 96)
    packed = rounded(weight, "table", 4, (32, 16))
    groups = weight.view(-1, 32).double()
    peaks = groups.abs().amax(-1, keepdim=True)
    errors = []
    for factor in (1.0, 0.92, 0.85, 0.78, 0.7):
        scale = peaks * factor / 7.5
        errors.append(((groups / scale).round().clamp(-8, 7) * scale - groups).square().sum(-1))
    ours = (packed.dequantize().view(-1, 32).double() - groups).square().sum(-1)
    least = torch.stack(errors).amin(0)
    assert torch.allclose(ours, least, rtol=1e-3)
    assert ours.sum() < 0.9 * errors[0].sum()


def test_8_bits_keep_the_largest_weight() -> None:
    weight = weights(8, 128)
    packed = rounded(weight, "table", 8, (128, 64))
    largest = weight.abs().argmax(1, keepdim=True)
    kept = packed.dequantize().gather(1, largest)
    assert torch.allclose(kept, weight.gather(1, largest), rtol=1e-5)


def test_rows_without_values() -> None:
    assert not rounded(torch.zeros(3, 64), "table", 4, (32,)).dequantize().any()


def test_a_width_without_blocks_is_refused() -> None:
    with pytest.raises(Refused, match="head: 40 inputs do not divide into blocks of 16"):
        rounded(weights(4, 40), "head", 4, (32, 16))


def test_every_row_of_a_table_is_packed_once() -> None:
    weight = weights(16_500, 32)
    table = pack_table(weight, "table")
    rare = table.rare_rows
    assert table.rare
    assert (table.main.bits, table.rare.bits) == (8, 4)
    assert len(table.main.integers) + len(table.rare.integers) == 16_500
    rows = torch.cat([torch.arange(rare.start), torch.arange(rare.stop, 16_500)])
    assert torch.allclose(table.main.dequantize(), weight[rows], atol=0.02)
    errors = (table.rare.dequantize() - weight[rare.start : rare.stop]).square().mean(1)
    assert 0 < errors.max() < 0.05
    small = pack_table(weight[:16_000], "table")
    assert small.rare is None
    assert len(small.main.integers) == 16_000
