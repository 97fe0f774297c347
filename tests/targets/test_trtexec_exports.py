"""Parsing the files of trtexec's --exportTimes and --exportProfile, complete and cut off."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trtexec_output import floats, layer_names, same, written

from edgewright.errors import UsageError
from edgewright.targets.trtexec import parse_profile, parse_times


def times_file(rows: list[dict[str, float]]) -> str:
    body = [
        "{ " + ", ".join(f'"{key}" : {written(value)}' for key, value in row.items()) + " }"
        for row in rows
    ]
    return (
        "[\n"
        + "".join(f"{'  ' if i == 0 else ', '}{line}\n" for i, line in enumerate(body))
        + "]\n"
    )


FIELDS = (
    "startEnqMs",
    "endEnqMs",
    "startH2dMs",
    "endH2dMs",
    "startComputeMs",
    "endComputeMs",
    "startD2hMs",
    "endD2hMs",
    "h2dMs",
    "computeMs",
    "d2hMs",
    "latencyMs",
)
queries = st.lists(
    st.fixed_dictionaries(dict.fromkeys(FIELDS, floats), optional={"endToEndMs": floats}),
    max_size=6,
)


@settings(max_examples=40, deadline=None)
@given(queries, st.data())
def test_times_read_back_and_truncated_ones_are_whole_queries(
    rows: list[dict[str, float]], data: st.DataObject
) -> None:
    text = times_file(rows)
    times = parse_times(text)
    assert times.complete
    assert len(times.queries) == len(rows)
    for query, row in zip(times.queries, rows, strict=True):
        assert same(query.latency_ms, row["latencyMs"])
        assert same(query.compute_ms, row["computeMs"])
    cut = data.draw(st.integers(1, len(text.rstrip()) - 1))
    part = parse_times(text[:cut])
    assert not part.complete
    assert len(part.queries) in (text[:cut].count("}"), 0)
    assert all(
        same(a.latency_ms, b.latency_ms) for a, b in zip(part.queries, times.queries, strict=False)
    )


def profile_file(
    count: int, layers: list[tuple[str, float, float, float, float]], median: bool
) -> str:
    lines = ["[", f'  {{ "count" : {count} }}']
    for name, total, average, middle, share in layers:
        extra = f', "medianMs" : {written(middle)}' if median else ""
        figures = (
            f'"timeMs" : {written(total)}, "averageMs" : {written(average)}{extra}, '
            f'"percentage" : {written(share)}'
        )
        lines.append(f', {{ "name" : "{name}", {figures} }}')
    return "\n".join([*lines, "]"]) + "\n"


hostile = st.one_of(
    layer_names,
    st.sampled_from(
        ['a "quoted" b', "back\\slash", '{ForeignNode[a..."b"]}', '", "timeMs" : 1', "x}"]
    ),
)
rows5 = st.lists(st.tuples(hostile, floats, floats, floats, floats), max_size=5)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 10**6), rows5, st.booleans(), st.data())
def test_profiles_read_back_whatever_layers_are_called(
    count: int, layers: Any, median: bool, data: st.DataObject
) -> None:
    text = profile_file(count, layers, median)
    profile = parse_profile(text)
    assert (profile.iterations, profile.complete) == (count, True)
    try:
        names = [entry["name"] for entry in json.loads(text)[1:]]
    except json.JSONDecodeError:
        names = [layer[0] for layer in layers]
    assert [layer.name for layer in profile.layers] == names
    for got, want in zip(profile.layers, layers, strict=True):
        assert same(got.total_ms, want[1])
        assert same(got.percent, want[4])
        assert got.median_ms is None if not median else same(got.median_ms, want[3])
    part = parse_profile(text[: data.draw(st.integers(1, len(text.rstrip()) - 1))])
    assert [layer.name for layer in part.layers] == names[: len(part.layers)]


def test_a_profile_cut_within_a_name_behind_its_bracket_keeps_the_layers_before() -> None:
    text = profile_file(
        100, [("0", 1.0, 1.0, 1.0, 50.0), ("x}", 1.0, 1.0, 1.0, 50.0)], median=False
    )
    part = parse_profile(text[: text.index("x}") + 2])
    assert ([layer.name for layer in part.layers], part.complete) == (["0"], False)


@pytest.mark.parametrize(
    "text", ["", "{}", '["a"]', "[1, 2]", '[{"a": 1}]', "Killed\n", '[\n{ "computeMs" : 1 }\n']
)
def test_other_files_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"not an --exportTimes file"):
        parse_times(text)
    with pytest.raises(UsageError, match=r"not an --exportProfile file"):
        parse_profile(text)
