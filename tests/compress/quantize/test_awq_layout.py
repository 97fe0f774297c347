"""The AWQ layout on disk: round trip, the order of packed integers, and the config block."""

from __future__ import annotations

import pytest
import torch
from by_hand import dequantize_awq

from edgewright.checkpoints.layouts import PackedLinear, Scheme, layout_of
from edgewright.checkpoints.layouts.awq import Awq

OUT = 32
WIDTH = 128
AWQ = Awq()


def random_packed(sym: bool, group: int, seed: int = 0) -> PackedLinear:
    generator = torch.Generator().manual_seed(seed)
    integers = torch.randint(0, 16, (OUT, WIDTH), generator=generator, dtype=torch.uint8)
    scales = (torch.rand(OUT, WIDTH // group, generator=generator) + 0.01).half().float()
    zeros = torch.randint(0, 16, (OUT, WIDTH // group), generator=generator, dtype=torch.uint8)
    return PackedLinear(integers, scales, torch.full_like(zeros, 8) if sym else zeros, 4, group)


@pytest.mark.parametrize("group", [32, 64, WIDTH])
@pytest.mark.parametrize("sym", [True, False])
def test_layout_round_trip_and_another_reader(sym: bool, group: int) -> None:
    packed = random_packed(sym, group)
    parts = AWQ.write(packed)
    back = AWQ.read(parts, Scheme(4, group, sym), "layer")
    assert torch.equal(back.integers, packed.integers)
    assert torch.equal(back.zeros, packed.zeros)
    assert torch.equal(back.scales, packed.scales)
    assert (back.bits, back.group_size, back.sym) == (4, group, sym)
    assert torch.equal(dequantize_awq(parts), packed.dequantize())
    specs = AWQ.specs(OUT, WIDTH, Scheme(4, group, sym))
    assert {n: (t.shape, t.dtype) for n, t in parts.items()} == {
        n: (t.shape, t.dtype) for n, t in specs.items()
    }
    assert parts["qweight"].shape == (WIDTH, OUT // 8)
    assert parts["qzeros"].shape == (WIDTH // group, OUT // 8)


def test_words_hold_the_outputs_in_the_order_of_the_kernels() -> None:
    integers = torch.arange(8, dtype=torch.uint8).view(8, 1).expand(8, 32).contiguous()
    packed = PackedLinear(
        integers, torch.ones(8, 1), torch.full((8, 1), 8, dtype=torch.uint8), 4, 32
    )
    assert int(AWQ.write(packed)["qweight"][0, 0]) & 0xFFFFFFFF == 0x75316420
    assert int(AWQ.write(packed)["qzeros"][0, 0]) & 0xFFFFFFFF == 0x88888888


def test_config_block() -> None:
    block = AWQ.config(Scheme(4, 128, True), 0.01, ["head"])
    assert isinstance(layout_of({"quantization_config": block}), Awq)
    assert (block["version"], block["zero_point"], block["modules_to_not_convert"]) == (
        "gemm",
        True,
        ["head"],
    )
    assert AWQ.scheme(block, "any") == Scheme(4, 128, True)
    assert AWQ.scheme({"w_bit": 4, "q_group_size": 64, "zero_point": True}, "any") == Scheme(
        4, 64, False
    )
