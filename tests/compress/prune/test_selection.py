"""How many heads, groups and neurons stay, which ones, and the messages of refusals."""

from __future__ import annotations

import pytest
import torch

from edgewright.compress.prune.counts import head_counts, neuron_count
from edgewright.compress.prune.selection import (
    choose_heads,
    choose_layers,
    choose_neurons,
    share_below,
)
from edgewright.errors import Refused, UsageError
from edgewright.models import AttentionSizes


def sizes(heads: int, kv: int, head_dim: int) -> AttentionSizes:
    return AttentionSizes(heads, kv, head_dim)


@pytest.mark.parametrize(
    ("heads", "kv", "head_dim", "ratio", "kept"),
    [
        (8, 2, 64, 0.0, 8),
        (8, 2, 64, 0.25, 6),
        (8, 2, 64, 0.5, 4),
        (8, 2, 64, 0.3, 6),
        (8, 2, 64, 0.4, 4),  # 4.8 heads wanted
        (8, 2, 64, 0.375, 6),  # a tie removes less
        (8, 2, 64, 0.13, 6),
        (8, 2, 64, 0.87, 2),
        (8, 2, 32, 0.25, 4),  # 6 * 32 is no multiple of 128, 4 * 32 is
        (6, 2, 64, 0.25, 4),
        (8, 1, 48, 0.5, 4),  # no multiple of 128 within a group's reach: the nearest count
        (14, 2, 64, 0.25, 10),  # Qwen2.5-0.5B: 10.5 wanted
        (28, 4, 128, 0.25, 20),  # Qwen2.5-7B: 21 wanted
        (32, 8, 128, 0.25, 24),  # Llama-3.1-8B
        (4, 1, 256, 0.25, 3),  # Gemma 3 1B
    ],
)
def test_query_heads_that_stay(heads: int, kv: int, head_dim: int, ratio: float, kept: int) -> None:
    assert head_counts(sizes(heads, kv, head_dim), ratio, 0.0, lambda _: True) == (kept, kv)


@pytest.mark.parametrize(
    ("heads", "kv", "ratios", "kept"),
    [
        (8, 2, (0.0, 0.5), (4, 1)),
        (32, 8, (0.0, 0.25), (24, 6)),
        (32, 8, (0.5, 0.25), (12, 6)),
        (32, 8, (0.25, 0.5), (12, 4)),
        (
            16,
            16,
            (0.25, 0.0),
            (12, 12),
        ),  # multi-head attention: a query head takes its key/value head along
        (16, 16, (0.0, 0.25), (12, 12)),
    ],
)
def test_groups_that_stay(
    heads: int, kv: int, ratios: tuple[float, float], kept: tuple[int, int]
) -> None:
    assert head_counts(sizes(heads, kv, 64), *ratios, lambda _: True) == kept


def test_head_counts_ask_the_family() -> None:
    assert head_counts(sizes(8, 2, 64), 0.25, 0.0, lambda n: n != 6) == (4, 2)
    with pytest.raises(Refused, match="no count below 8"):
        head_counts(sizes(8, 2, 64), 0.25, 0.0, lambda _: False)


@pytest.mark.parametrize(
    ("ratios", "said", "nearest"),
    [
        ((0.01, 0.0), "rounds to none", "0.25 (4 -> 3)"),
        ((0.99, 0.0), "rounds to all", "0.75 (4 -> 1)"),
        ((0.0, 0.2), "rounds to none", "0.5 (2 -> 1)"),
        ((0.0, 0.8), "rounds to all", "0.5 (2 -> 1)"),
    ],
)
def test_impossible_shares_name_the_nearest(
    ratios: tuple[float, float], said: str, nearest: str
) -> None:
    with pytest.raises(Refused, match=said) as caught:
        head_counts(sizes(8, 2, 64), *ratios, lambda _: True)
    assert nearest in caught.value.hint


def test_the_only_group_and_one_thing_named_twice() -> None:
    with pytest.raises(Refused, match="the only key/value head"):
        head_counts(sizes(8, 1, 64), 0.0, 0.5, lambda _: True)
    with pytest.raises(UsageError, match="one thing"):
        head_counts(sizes(8, 8, 64), 0.25, 0.25, lambda _: True)


@pytest.mark.parametrize("ratio", [-0.1, 1.0, float("nan")])
def test_shares_outside_the_range(ratio: float) -> None:
    with pytest.raises(UsageError, match="not a share"):
        head_counts(sizes(8, 2, 64), ratio, 0.0, lambda _: True)
    with pytest.raises(UsageError, match="not a share"):
        neuron_count(256, ratio)


def test_choose_heads_within_groups() -> None:
    scores = torch.tensor([[9.0, 8, 7, 6, 1, 2, 3, 4], [1, 2, 3, 4, 9, 8, 7, 6]])
    assert choose_heads(scores, 2, 4, 2) == [[0, 1, 6, 7], [2, 3, 4, 5]]
    assert choose_heads(scores, 1, 2, 1) == [[0, 1], [4, 5]]


def test_choose_whole_groups() -> None:
    scores = torch.tensor([[9.0, 8, 7, 6, 1, 2, 3, 4], [1, 2, 3, 4, 9, 8, 7, 6]])
    assert choose_heads(scores, 2, 4, 1) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert choose_heads(scores, 4, 4, 2) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert choose_heads(scores, 4, 2, 2) == [[0, 2], [4, 6]]


def test_share_below_is_by_layer() -> None:
    """A layer with large scores does not make another's look small."""
    scores = torch.tensor([[1.0, 1, 1, 0.1], [100, 100, 100, 10]])
    assert share_below(scores, 0.5) == 0.25
    assert share_below(scores, 0.05) == 0.0
    assert share_below(scores, 5.0) == 1.0


@pytest.mark.parametrize(
    ("width", "ratio", "kept"),
    [
        (512, 0.25, 384),
        (512, 0.5, 256),
        (512, 0.3, 384),
        (512, 0.8, 128),
        (512, 0.0, 512),
        (640, 0.25, 512),
        (100, 0.25, 75),
        (128, 0.25, 96),
    ],
)
def test_choose_neurons(width: int, ratio: float, kept: int) -> None:
    scores = torch.rand(2, width, generator=torch.Generator().manual_seed(0))
    chosen = choose_neurons(scores, neuron_count(width, ratio))
    assert [len(c) for c in chosen] == [kept, kept]
    for row, names in zip(scores, chosen, strict=True):
        assert names == sorted(names)
        left = sorted(set(range(width)) - set(names))
        assert not left or row[names].min() >= row[left].max()


@pytest.mark.parametrize(
    ("ratio", "said", "nearest"),
    [(0.1, "rounds to none", "0.25 (512 -> 384)"), (0.99, "rounds to all", "0.75 (512 -> 128)")],
)
def test_impossible_widths_name_the_nearest(ratio: float, said: str, nearest: str) -> None:
    with pytest.raises(Refused, match=said) as caught:
        neuron_count(512, ratio)
    assert nearest in caught.value.hint


def test_choose_layers_spares_the_ends() -> None:
    assert choose_layers(torch.tensor([0.0, 0.3, 0.1, 0.2, 0.0]), 2) == [0, 1, 4]
    assert choose_layers(torch.tensor([0.0, 0.3]), 0) == [0, 1]
    for remove, count in ((1, 2), (3, 4), (-1, 5)):
        with pytest.raises(
            UsageError, match=f"a model of {count} layers can lose 0 to {count - 2}"
        ):
            choose_layers(torch.rand(count), remove)
