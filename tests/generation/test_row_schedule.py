"""Which prompt is in which row; groups of a prefill; memory; and the rate that is shown."""

from __future__ import annotations

import random

import pytest

from edgewright.console import progress
from edgewright.generation.decoding import Decoding, until_end
from edgewright.generation.generate import Pace
from edgewright.generation.memory import (
    BUDGET,
    CHUNK_BYTES,
    CHUNK_TOKENS,
    MOST_ROWS,
    chunk_tokens,
    rows_within,
)
from edgewright.generation.schedule import Schedule, groups_within


def test_a_row_that_ends_is_replaced_and_the_last_row_moves_into_a_gap() -> None:
    schedule = Schedule([5, 9, 7, 1, 3], limit=3)
    assert schedule.admit() == [1, 2, 0], "the longest first"
    assert schedule.admit() == []
    assert schedule.retire({0}) == [(2, 0)]
    assert schedule.rows == [0, 2]
    assert schedule.admit() == [4]
    assert schedule.retire({2}) == [], "the last row leaves no gap"
    assert schedule.admit() == [3]
    assert schedule.rows == [0, 2, 3]
    assert schedule.retire({0, 1, 2}) == []
    assert schedule.unfinished == 0


@pytest.mark.parametrize("limit", [1, 2, 5, 40])
def test_every_prompt_runs_once_and_keeps_its_content_while_rows_move(limit: int) -> None:
    """`content` moves as a cache does."""
    draw = random.Random(limit)
    schedule = Schedule([draw.randrange(1, 50) for _ in range(30)], limit)
    content: list[int] = []
    finished: list[int] = []
    while schedule.unfinished:
        content += schedule.admit()
        assert content == schedule.rows
        assert 0 < len(content) <= limit
        assert len(content) == min(limit, schedule.unfinished), "no row is free while prompts wait"
        ended = {row for row in range(len(content)) if draw.random() < 0.3}
        finished += [content[row] for row in ended]
        for source, target in schedule.retire(ended):
            content[target] = content[source]
        del content[len(schedule.rows) :]
    assert sorted(finished) == list(range(30))


def test_groups_of_a_prefill_are_full_and_no_larger_than_allowed() -> None:
    prompts = [[0] * length for length in (9, 3, 4, 1, 0, 0, 6)]
    groups = list(groups_within(prompts, 8))
    assert [prompt for group in groups for prompt in group] == prompts
    assert [[len(p) for p in group] for group in groups] == [[9], [3, 4], [1, 0, 0], [6]]


def test_rows_are_as_many_as_fit() -> None:
    assert rows_within(1000, 1000, 1000, prompts=500) == MOST_ROWS
    assert rows_within(1000, 1000, 1000, prompts=7) == 7
    cache, logits = 1000 * 30_000, 2 * 4 * 150_000
    rows = rows_within(1000, 30_000, 150_000, prompts=500)
    assert rows * (cache + logits) <= BUDGET < (rows + 1) * (cache + logits)
    assert rows_within(10**6, 10**5, 10, prompts=9) == 1, "a row beyond the budget is alone"
    assert rows_within(10, 10, 10, prompts=9, budget=2 * 180) == 2


def test_whole_logits_of_a_chunk_stay_small() -> None:
    assert chunk_tokens(152_000, whole_logits=False) == CHUNK_TOKENS
    chunk = chunk_tokens(152_000, whole_logits=True)
    assert chunk * 4 * 152_000 <= CHUNK_BYTES < (chunk + 1) * 4 * 152_000
    assert chunk_tokens(500, whole_logits=True) == CHUNK_TOKENS
    assert chunk_tokens(10**9, whole_logits=True) == 1


def test_an_answer_ends_by_a_token_by_its_length_or_by_a_function() -> None:
    decoding = Decoding(4, [7], lambda tokens: tokens[-2:] == [1, 2])
    assert decoding.complete([5, 7])
    assert decoding.complete([5, 5, 5, 5])
    assert decoding.complete([5, 1, 2])
    assert not decoding.complete([7, 5, 5])
    assert until_end([5, 7, 3], [7]) == [5]
    assert until_end([5, 3], [7]) == [5, 3]


def test_the_time_left_is_the_most_that_it_can_be() -> None:
    times = iter([0.0, 1.0, 5.0])
    with progress("answering", 10) as bar:
        pace = Pace(bar, 10, 60, clock=lambda: next(times))
        pace.add(100, [])
        assert pace.note(2.0) == "50 tokens/s, at most 10 s left"  # 10 x 60 tokens, less 100
        pace.add(100, [30, 50])
    assert pace.note(5.0) == "40 tokens/s, at most 9 s left"  # 8 x 60 tokens, less their 120
