"""JSON of requests: what readers understand differently is refused, and nothing else raises."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewright.targets.serving.strict_json import MAX_NAMES, parse

REFUSED = {
    "empty": b"",
    "cut": b'{"a": 1',
    "two values": b"{} {}",
    "a name twice": b'{"a": 1, "a": 2}',
    "a name twice, inside": b'[{"b": {"a": 1, "\\u0061": 2}}]',
    "NaN": b'{"a": NaN}',
    "Infinity": b'{"a": -Infinity}',
    "too large": b'{"a": 1e999}',
    "too many digits": b'{"a": ' + b"9" * 5000 + b"}",
    "nested arrays": b"[" * 100_000 + b"]" * 100_000,
    "nested objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "half a surrogate pair": b'{"a": "\\ud800"}',
    "the other half": b'{"a": "\\udc00\\ud800"}',
    "half a surrogate pair in a name": b'{"\\ud83d": 1}',
    "Latin-1": b'{"a": "\xe9"}',
    "a surrogate in UTF-8": b'{"a": "\xed\xa0\x80"}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "a byte order mark": b'\xef\xbb\xbf{"a": 1}',
    "a control character": b'{"a": "\x01"}',
    "single quotes": b"{'a': 1}",
    "many names": json.dumps({str(i): i for i in range(MAX_NAMES + 1)}).encode(),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_ambiguous_is_refused_in_a_short_sentence(name: str) -> None:
    with pytest.raises(ValueError, match=r"^.{5,150}$"):
        parse(REFUSED[name])


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.text(max_size=8)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=100, deadline=None)
@given(JSON, st.booleans())
def test_plain_json_is_read_as_it_is(value: object, ascii_only: bool) -> None:
    assert parse(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60) | st.text('{}[]":,\\udD890.eE+-NaIinfty ', max_size=40))
def test_nothing_but_a_value_error_comes_out(data: bytes | str) -> None:
    raw = data if isinstance(data, bytes) else data.encode()
    try:
        value = parse(raw)
    except ValueError:
        return
    assert json.loads(raw) == value
