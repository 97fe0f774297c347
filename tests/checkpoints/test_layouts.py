"""The GPTQ layout is read back by us, and by a reader written from the format's description."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from by_hand import dequantize_gptq

from edgewright.checkpoints.layouts import PackedLinear, Scheme, layout_of
from edgewright.checkpoints.layouts.gptq import Gptq
from edgewright.checkpoints.layouts.packed import pack_words, unpack_words
from edgewright.errors import Refused, UsageError

OUT = 32
WIDTH = 256
GPTQ = Gptq()
CASES = [
    (bits, sym, group)
    for bits in (2, 3, 4, 8)
    for sym in (True, False)
    for group in (32, 64, 128, WIDTH)
]


def random_packed(bits: int, sym: bool, group: int, seed: int = 0) -> PackedLinear:
    generator = torch.Generator().manual_seed(seed)
    groups = WIDTH // group
    integers = torch.randint(0, 2**bits, (OUT, WIDTH), generator=generator, dtype=torch.uint8)
    scales = (torch.rand(OUT, groups, generator=generator) + 0.01).half().float()
    zeros = torch.randint(1, 2**bits, (OUT, groups), generator=generator, dtype=torch.uint8)
    return PackedLinear(
        integers, scales, torch.full_like(zeros, 2 ** (bits - 1)) if sym else zeros, bits, group
    )


@pytest.mark.parametrize(("bits", "sym", "group"), CASES)
def test_round_trip(bits: int, sym: bool, group: int) -> None:
    packed = random_packed(bits, sym, group)
    back = GPTQ.read(GPTQ.write(packed), Scheme(bits, group, sym), "layer")
    assert torch.equal(back.integers, packed.integers)
    assert torch.equal(back.scales, packed.scales)
    assert torch.equal(back.zeros, packed.zeros)
    assert (back.bits, back.group_size, back.sym) == (bits, group, sym)


@pytest.mark.parametrize(("bits", "sym", "group"), CASES)
def test_another_reader_sees_the_same_weight(bits: int, sym: bool, group: int) -> None:
    packed = random_packed(bits, sym, group, seed=1)
    assert torch.equal(dequantize_gptq(GPTQ.write(packed), bits), packed.dequantize())


@pytest.mark.parametrize(("bits", "sym", "group"), CASES)
def test_types_and_shapes_are_the_formats(bits: int, sym: bool, group: int) -> None:
    parts = GPTQ.write(random_packed(bits, sym, group))
    assert {name: (tuple(t.shape), t.dtype) for name, t in parts.items()} == {
        "qweight": ((WIDTH * bits // 32, OUT), torch.int32),
        "qzeros": ((WIDTH // group, OUT * bits // 32), torch.int32),
        "scales": ((WIDTH // group, OUT), torch.float16),
        "g_idx": ((WIDTH,), torch.int32),
    }
    assert parts["g_idx"].tolist() == [k // group for k in range(WIDTH)]
    assert all(t.is_contiguous() for t in parts.values())


@pytest.mark.parametrize(("bits", "word"), [(4, 0x77777777), (8, 0x7F7F7F7F)])
def test_symmetric_zeros_are_stored_minus_one(bits: int, word: int) -> None:
    assert (GPTQ.write(random_packed(bits, True, 32))["qzeros"] == word).all()


def test_words_hold_the_lowest_input_in_the_lowest_bits() -> None:
    integers = torch.arange(OUT * 32).remainder(16).to(torch.uint8).view(OUT, 32)
    packed = PackedLinear(
        integers, torch.ones(OUT, 1), torch.full((OUT, 1), 8, dtype=torch.uint8), 4, 32
    )
    first = int(GPTQ.write(packed)["qweight"][0, 0]) & 0xFFFFFFFF
    assert first == 0x76543210


def test_dequantize_is_integer_minus_zero_times_scale() -> None:
    packed = PackedLinear(
        torch.tensor([[0, 15, 8, 9]], dtype=torch.uint8),
        torch.tensor([[0.5, 2.0]]),
        torch.tensor([[8, 7]], dtype=torch.uint8),
        4,
        2,
    )
    assert packed.dequantize().tolist() == [[-4.0, 3.5, 2.0, 4.0]]
    assert not packed.sym


@pytest.mark.parametrize(("bits", "sym"), [(2, True), (3, False), (4, True), (8, False)])
def test_permuted_groups_are_kept(bits: int, sym: bool) -> None:
    g_idx = (torch.randperm(WIDTH, generator=torch.Generator().manual_seed(0)) // 32).to(
        torch.int32
    )
    packed = replace(random_packed(bits, sym, 32), g_idx=g_idx)
    parts = GPTQ.write(packed)
    assert torch.equal(parts["g_idx"], g_idx)
    back = GPTQ.read(parts, Scheme(bits, 32, sym), "layer")
    assert back.g_idx is not None
    assert torch.equal(back.g_idx, g_idx)
    assert torch.equal(back.dequantize(), packed.dequantize())
    assert torch.equal(dequantize_gptq(parts, bits), packed.dequantize())


def test_consecutive_groups_need_no_g_idx() -> None:
    assert GPTQ.read(GPTQ.write(random_packed(4, True, 32)), Scheme(4, 32), "layer").g_idx is None


def test_groups_that_are_not_there_are_named() -> None:
    parts = GPTQ.write(random_packed(4, True, 32))
    with pytest.raises(UsageError, match=r"model\.layers\.3\.down: g_idx names groups"):
        GPTQ.read({**parts, "g_idx": parts["g_idx"] + 1}, Scheme(4, 32), "model.layers.3.down")


def test_three_bits_lie_across_words() -> None:
    """As AutoGPTQ packs them: integers 10 and 21 have their highest bits in the next word."""
    integers = torch.zeros(32, 1, dtype=torch.uint8)
    integers[10] = 0b100
    integers[21] = 0b101
    integers[31] = 0b111
    words = [int(word) & 0xFFFFFFFF for word in pack_words(integers, 3)[:, 0]]
    assert words == [0, 1 | (1 << 31), 0b10 | (0b111 << 29)]


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_packed_integers_are_unpacked_unchanged(bits: int) -> None:
    values = torch.randint(
        0, 2**bits, (96, 5), generator=torch.Generator().manual_seed(1), dtype=torch.uint8
    )
    words = pack_words(values, bits)
    assert words.shape == (96 * bits // 32, 5)
    assert torch.equal(unpack_words(words, bits), values)


def test_a_file_without_g_idx_is_read() -> None:
    packed = random_packed(4, False, 32)
    parts = {k: v for k, v in GPTQ.write(packed).items() if k != "g_idx"}
    assert torch.equal(
        GPTQ.read(parts, Scheme(4, 32, False), "layer").dequantize(), packed.dequantize()
    )


def test_config_block_and_names() -> None:
    block = GPTQ.config(Scheme(4, 128, True), 0.01)
    assert isinstance(layout_of({"quantization_config": block}), Gptq)
    assert GPTQ.scheme(block, "any") == Scheme(4, 128, True)
    assert layout_of({}) is None is layout_of({"quantization_config": None})
    with pytest.raises(Refused, match="unheard-of"):
        layout_of({"quantization_config": {"quant_method": "unheard-of"}})
    assert (block["bits"], block["group_size"], block["sym"], block["desc_act"]) == (
        4,
        128,
        True,
        False,
    )
    assert block["checkpoint_format"] == "gptq"
    assert GPTQ.names(
        {"a.b.qweight": torch.ones(1), "a.b.scales": torch.ones(1), "c.weight": torch.ones(1)}
    ) == ["a.b"]
