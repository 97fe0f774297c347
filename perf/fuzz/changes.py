"""Damaged documents: hypothesis strategies that change a valid one in a few places."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

from hypothesis import strategies as st

__all__ = ["changed_bytes", "changed_json", "changed_text", "nested", "odd_values"]

DEEP = "[" * 2000 + "]" * 2000
NUMBERS = (0, -1, 1, 2, 3, 7, 2**31, 2**63, 10**30, -(2**63), 0.5, 1e308, 1e-320, float("nan"))
INFINITIES = (float("inf"), float("-inf"))
TEXTS = (
    "",
    "x",
    "nan",
    "../../etc/passwd",
    "/dev/zero",
    "\ud800",
    "\x00",
    "\x1b[31m",
    "a" * 5000,
    "{{ 1 }}",
    "{% for i in range(9) %}",
    "(a+)+$",
    "[",
    "<script>",
    "é\u202e",
)


def nested(value: Any, depth: int) -> Any:
    """A value inside of this many lists."""
    for _ in range(depth):
        value = [value]
    return value


odd_values: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from([*NUMBERS, *INFINITIES]),
    st.sampled_from(TEXTS),
    st.sampled_from([None, True, False]),
    st.sampled_from([[], {}, [None], {"": None}, [[]], {"a": {}}, nested(1, 150)]),
    st.integers(-10, 5000),
    st.floats(),
    st.text(max_size=8),
)
"""What may stand where something else belongs."""


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values inside a document, at most a few thousand."""
    children: Any = ()
    if isinstance(value, dict):
        children = value.items()
    elif isinstance(value, list):
        children = list(enumerate(value))[:50]
    found = [path] if path else []
    for key, inner in children:
        found += _places(inner, (*path, key))
    return found


@st.composite
def changed_json(draw: st.DrawFn, documents: list[Any], most: int = 3) -> Any:
    """One of the documents with up to `most` values replaced, removed, renamed or repeated."""
    document = deepcopy(draw(st.sampled_from(documents)))
    for _ in range(draw(st.integers(1, most))):
        places = _places(document)
        if not places:
            return deepcopy(draw(odd_values))
        *outer, last = draw(st.sampled_from(places))
        holder = document
        for key in outer:
            holder = holder[key]
        _change(draw, holder, last)
    return document


def _change(draw: st.DrawFn, holder: Any, key: Any) -> None:
    kind = draw(st.sampled_from(("replace", "replace", "replace", "remove", "rename", "repeat")))
    if kind == "remove":
        del holder[key]
    elif kind == "rename" and isinstance(holder, dict):
        holder[draw(st.text(max_size=6))] = holder.pop(key)
    elif kind == "repeat" and isinstance(holder, list):
        holder.extend(deepcopy(holder[key]) for _ in range(draw(st.integers(1, 20))))
    else:
        holder[key] = deepcopy(draw(odd_values))  # later changes must not change the list


@st.composite
def changed_bytes(draw: st.DrawFn, valid: bytes | st.SearchStrategy[bytes]) -> bytes:
    """A file that is as it was, cut off, or has some bytes changed, added or repeated."""
    data = valid if isinstance(valid, bytes) else draw(valid)
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        to = draw(st.integers(at, min(at + 64, len(data))))
        kind = draw(st.sampled_from(("cut", "flip", "put", "twice", "swap")))
        if kind == "cut":
            data = data[:at]
        elif kind == "flip" and data:
            data = data[:at] + bytes([data[at] ^ (1 << draw(st.integers(0, 7)))]) + data[at + 1 :]
        elif kind == "put":
            data = data[:at] + draw(st.binary(max_size=12)) + data[at:]
        elif kind == "twice":
            data = data[:to] + data[at:to] * draw(st.integers(1, 50)) + data[to:]
        else:
            data = data[:at] + data[to:]
    return data


def changed_text(documents: list[Any]) -> st.SearchStrategy[bytes]:
    """Changed documents as JSON, some of them with changed bytes or nested without end."""
    written = changed_json(documents).map(lambda value: json.dumps(value).encode())
    return st.one_of(written, written, changed_bytes(written), st.just(DEEP.encode()))
