"""Values between processes: data stays what it is, and made-up data is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewright.benchmarks.tasks.confined.values import decode, encode

KEYS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3)
LEAVES = KEYS | st.binary(max_size=3) | st.fractions() | st.decimals(allow_nan=False)
MOMENTS = st.dates() | st.datetimes() | st.timedeltas() | st.times()
VALUES = st.recursive(
    LEAVES | MOMENTS | st.complex_numbers(allow_nan=False),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(KEYS, inner, max_size=3)
        | st.frozensets(KEYS, max_size=3)
        | st.sets(KEYS, max_size=3)
    ),
    max_leaves=8,
)


class Refused(Exception):
    pass


def refuse(_: Any) -> Any:
    raise Refused


@settings(max_examples=200, deadline=None)
@given(VALUES)
def test_data_arrives_as_it_is(value: Any) -> None:
    sent = json.loads(json.dumps(encode(value, refuse)))
    found = decode(sent, refuse)
    assert type(found) is type(value)
    assert found == value


@pytest.mark.parametrize("value", [len, object(), iter([]), lambda: 0, type("Own", (), {}), encode])
def test_what_is_no_data_is_a_handle(value: Any) -> None:
    assert encode([value], lambda _: ["mine", 7]) == ["list", ["mine", 7]]


@pytest.mark.parametrize(
    "data",
    [
        [],
        ["exec", "1"],
        ["type", "print"],
        ["module", "edgewright"],
        ["module", "os.path"],
        ["int", 5],
        ["bytes", 5],
        ["dict", 1],
        ["builtins.eval", "1"],
        ["collections.UserDict"],
        [["list"], 1],
        {"a": 1},
    ],
)
def test_made_up_data_is_refused(data: Any) -> None:
    with pytest.raises((Refused, ValueError, TypeError)):
        decode(data, refuse)
