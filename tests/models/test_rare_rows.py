"""Which rows of an embedding and a head are rare, and what a packed pair weighs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from known_models import QWEN3, QWEN25_3B, changed, predicted

from edgewright.models.footprint import read_size, size_of
from edgewright.models.packed_tables import packed_table_bytes, rare_rows
from edgewright.targets import load_target


@pytest.mark.parametrize(
    ("vocab_size", "rare"),
    [
        (151_936, range(60_736, 151_424)),
        (128_256, range(51_264, 127_744)),
        (16_384, range(6_528, 15_872)),
        (16_383, range(0)),
        (512, range(0)),
    ],
)
def test_rows_in_the_middle_of_a_large_vocabulary_are_rare(vocab_size: int, rare: range) -> None:
    assert rare_rows(vocab_size) == rare


def test_bytes_are_those_counted_by_hand() -> None:
    """Per row: 8 bits with a float32 scale per 128 inputs, or 4 bits with one per 32."""
    tied = packed_table_bytes(QWEN25_3B)
    assert tied.embedding == 0
    assert tied.head == (
        (151_936 - 90_688) * (2048 + 2048 // 128 * 4) + 90_688 * (1024 + 2048 // 32 * 4)
    )
    untied = packed_table_bytes(QWEN3["8B"])
    assert untied.embedding == untied.head > 0
    small = packed_table_bytes(changed(QWEN25_3B, vocab_size=1000, hidden_size=336))
    assert small.head == 1000 * (336 + 21 * 4)


def test_a_packed_table_weighs_the_same_beside_floats_of_any_size() -> None:
    """A graph for a CPU saves 4 bytes a weight, where one for a GPU saves 2."""
    tables = packed_table_bytes(QWEN25_3B)
    values = 151_936 * 2048
    for floats in (2, 4):
        plain = size_of(QWEN25_3B, "int4", float_bytes=floats)
        packed = size_of(QWEN25_3B, "int4", float_bytes=floats, table_bytes=tables)
        assert plain - packed == floats * values - tables.head
    cpu = load_target("cpu")
    plain = predicted(cpu, QWEN25_3B, precision="int4")
    packed = predicted(cpu, QWEN25_3B, precision="int4", table_bytes=tables)
    assert plain.weight_bytes - packed.weight_bytes == 4 * values - tables.head
    assert plain.decode_tok_s and packed.decode_tok_s
    assert packed.decode_tok_s > plain.decode_tok_s


def test_a_step_reads_the_head_and_not_an_untied_embedding() -> None:
    model = QWEN3["8B"]
    tables = replace(packed_table_bytes(model), embedding=123_456)
    size = size_of(model, "int4", table_bytes=tables)
    assert read_size(model, "int4", 128, 2, table_bytes=tables) == size - 123_456
    rest = read_size(model, "int4", 128, 2) - 2 * 151_936 * 4096
    assert read_size(model, "int4", 128, 2, table_bytes=tables) == rest + tables.head
