"""Caches of earlier sequences: which are kept, and whose; within their budget."""

from __future__ import annotations

import random

import numpy as np
import pytest

from edgewright.generation.schedule import LEAST_SHARED
from edgewright.targets.serving.prefixes import Prefixes, States

BYTES = 8
"""Of a position: one layer, keys and values, one head, head_dim 1, float32."""


def states(tokens: list[int]) -> States:
    """Keys and values from which the tokens can be read."""
    return [np.array(tokens, np.float32).reshape(1, -1, 1) for _ in range(2)]


def keep(prefixes: Prefixes, tokens: list[int], owner: int = 0) -> None:
    prefixes.keep(tokens, owner, lambda: states(tokens))


def found(prefixes: Prefixes, tokens: list[int], owner: int = 0) -> int:
    """The number of tokens that are known; their states must be those of the prompt."""
    prefix = prefixes.find(tokens, owner)
    if prefix is None:
        return 0
    for one in prefix.states:
        assert one.reshape(-1).tolist() == tokens[: prefix.length]
    return prefix.length


def test_the_longest_common_beginning_is_found() -> None:
    prefixes = Prefixes(10**6, BYTES)
    base = list(range(100))
    keep(prefixes, base[:40])
    keep(prefixes, [*base[:60], 7, 8])
    assert found(prefixes, base) == 60
    assert found(prefixes, [*base[:30], 5]) == 30
    assert found(prefixes, base[:20]) == 20
    assert found(prefixes, base[: LEAST_SHARED - 1]) == 0
    assert found(prefixes, [5, *base]) == 0
    assert found(prefixes, []) == 0


def test_what_another_one_extends_is_replaced() -> None:
    prefixes = Prefixes(10**6, BYTES)
    base = list(range(100))
    for length in (20, 50, 90, 30):
        keep(prefixes, base[:length])
    assert prefixes.size == 90 * BYTES
    keep(prefixes, base[:90])
    assert prefixes.size == 90 * BYTES


def test_nobody_gets_what_another_one_sent() -> None:
    prefixes = Prefixes(10**6, BYTES)
    base = list(range(50))
    keep(prefixes, base, owner=1)
    assert (found(prefixes, base, 0), found(prefixes, base, 1)) == (0, 50)
    keep(prefixes, base, owner=0)
    assert (found(prefixes, base, 0), prefixes.size) == (50, 100 * BYTES)


def test_the_least_recently_used_goes_first() -> None:
    prefixes = Prefixes(60 * BYTES, BYTES)
    first, second, third = ([i] * 20 for i in (1, 2, 3))
    for tokens in (first, second, third):
        keep(prefixes, tokens)
    assert found(prefixes, first) == 20
    keep(prefixes, [4] * 20)
    assert [found(prefixes, one) for one in (first, second, third)] == [20, 0, 20]


@pytest.mark.parametrize("budget", [0, 1, 100, 1000, 5000])
def test_the_budget_holds_whatever_comes(budget: int) -> None:
    prefixes = Prefixes(budget, BYTES)
    draw = random.Random(budget)
    for _ in range(300):
        tokens = [draw.randrange(2) for _ in range(draw.randrange(200))]
        keep(prefixes, tokens, draw.randrange(2))
        assert prefixes.size <= budget
        found(prefixes, tokens, draw.randrange(2))
    assert (prefixes.size > 0) == (budget >= LEAST_SHARED * BYTES)


def test_memory_that_is_not_there_stops_nobody() -> None:
    def fail() -> States:
        raise MemoryError

    prefixes = Prefixes(10**6, BYTES)
    prefixes.keep(list(range(50)), 0, fail)
    assert prefixes.size == 0
