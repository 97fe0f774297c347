"""A part of the rows: `[START:STOP]` behind a source means what it means for a list."""

from __future__ import annotations

import gzip
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hub_data import write, write_rows

from edgewright.data.rows import Example
from edgewright.data.sources import Source
from edgewright.errors import UsageError

ROWS: list[dict[str, Any]] = [{"text": f"row {n}"} for n in range(7)]
LINES = "\n\n".join(json.dumps(row) for row in ROWS).encode()
BOUNDS = ("", "0", "1", "6", "7", "9", "-1", "-6", "-7", "-9")


def hub_rows(_config: str, _split: str) -> list[dict[str, Any]]:
    return ROWS


def packed(folder: Path) -> str:
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(LINES))
    return f"jsonl:{folder / 'a.jsonl.gz'}"


def lines(folder: Path) -> str:
    (folder / "a.jsonl").write_bytes(LINES)
    return f"jsonl:{folder / 'a.jsonl'}"


def array(folder: Path) -> str:
    (folder / "a.json").write_text(json.dumps(ROWS))
    return f"jsonl:{folder / 'a.json'}"


FORMS: dict[str, Callable[[Path], str]] = {
    "lines": lines,
    "lines with a field": lambda folder: f"{lines(folder)}:text",
    "array": array,
    "gzip": packed,
    "parquet": lambda folder: f"parquet:{write_rows(folder / 'a.parquet', ROWS)}",
    "hub": lambda folder: f"hf:{write(folder / 'set', ('default',), ('train',), hub_rows)}:train",
}


def texts(source: str) -> list[str]:
    return [row.completion for row in Source.parse(source).training(0) if isinstance(row, Example)]


@pytest.mark.parametrize("form", ["lines", "lines with a field", "array", "gzip"])
def test_every_range_is_that_of_a_list(form: str, tmp_path: Path) -> None:
    whole = FORMS[form](tmp_path)
    for start, stop in itertools.product(BOUNDS, BOUNDS):
        source = f"{whole}[{start}:{stop}]"
        chosen = slice(int(start) if start else None, int(stop) if stop else None)
        expected = [row["text"] for row in ROWS[chosen]]
        assert list(Source.parse(source).part.indices(7)) == list(range(7)[chosen])
        if expected:
            assert texts(source) == expected, source
            continue
        with pytest.raises(UsageError, match="no rows are in this range") as caught:
            texts(source)
        assert f"{Source.parse(source)}: no rows" in str(caught.value)
        assert "the data has 7" in str(caught.value)
        assert "START must be before STOP" in caught.value.hint


@pytest.mark.parametrize("form", FORMS)
def test_parts_of_every_form_are_disjoint_and_complete(form: str, tmp_path: Path) -> None:
    source = FORMS[form](tmp_path)
    first, last = f"{source}[:-3]", f"{source}[-3:]"
    assert (len(texts(first)), len(texts(last))) == (4, 3)
    assert texts(first) + texts(last) == texts(source) == texts(f"{source}[:]")
    assert texts(f"{source}[ 1 : 2 ]") == ["row 1"]
    hashes = {Source.parse(one).fingerprint() for one in (source, first, last)}
    assert len(hashes) == 3
    assert Source.parse(f"{source}[:]").fingerprint() == Source.parse(source).fingerprint()
    assert Source.parse(f"{source}[0:2]") == Source.parse(f"{source}[:2]")
    assert str(Source.parse(last)) == last
    assert Source.parse(last).label == Source.parse(source).label
    with pytest.raises(UsageError, match="the data has 7"):
        Source.parse(f"{source}[7:]").check()


@pytest.mark.parametrize("inside", ["", "5", "a:b", "1:2:3", ":10%", "1.5:", "0x1:", "--1:", "1;2"])
@pytest.mark.parametrize("form", FORMS)
def test_nonsense_in_brackets(form: str, inside: str, tmp_path: Path) -> None:
    source = f"{FORMS[form](tmp_path)}[{inside}]"
    with pytest.raises(UsageError) as caught:
        Source.parse(source)
    assert str(caught.value) == f"{source}: `[{inside}]` is no range of rows"
    assert "[START:STOP]" in caught.value.hint
    assert caught.value.exit_code == 2


def test_data_without_rows_has_no_range(text_file: Path) -> None:
    for source in (f"text:{text_file}", "builtin:reasoning"):
        with pytest.raises(UsageError, match=r"no rows to choose \[:5\] from") as caught:
            Source.parse(f"{source}[:5]")
        assert "leave [:5] out" in caught.value.hint


def test_a_file_whose_own_name_ends_in_brackets(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl[1:2]"
    file.write_bytes(LINES)
    (tmp_path / "a.jsonl").write_text('{"text": "other"}')
    assert len(texts(f"jsonl:{file}")) == 7
    assert texts(f"jsonl:{file}[1:2]") == ["row 1"]
    assert texts(f"jsonl:{file}:text[1:2]") == ["row 1"]
    with pytest.raises(UsageError, match=r"no such file: missing\.jsonl$"):
        Source.parse("jsonl:missing.jsonl[:5]")


def test_rows_keep_their_number_and_others_are_not_parsed(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "a"}\n{"broken\n{"text": "c"}\n{"text": null}\n')
    assert texts(f"jsonl:{file}[:1]") == ["a"]
    assert texts(f"jsonl:{file}[-2:-1]") == ["c"]
    with pytest.raises(UsageError, match="row 4: field `text` is null"):
        texts(f"jsonl:{file}[-1:]")
    with pytest.raises(UsageError, match="line 2: not JSON"):
        texts(f"jsonl:{file}[:2]")


def test_parts_that_share_rows(tmp_path: Path) -> None:
    source = lines(tmp_path)

    def same(one: str, other: str) -> bool:
        return Source.parse(f"{source}{one}").same_rows(Source.parse(f"{source}{other}"))

    assert same("", "") and same("[2:]", "[2:]") and same("[2:]", "[-5:]") and same("", "[:9]")
    assert not same("[:-3]", "[-3:]") and not same("[5:]", "[:2]") and not same("", "[9:]")
    with pytest.raises(UsageError, match=r"have rows in common: \[3:5\]") as caught:
        same("[3:]", "[:5]")
    assert "ranges without a common row" in caught.value.hint
    with pytest.raises(UsageError, match=r"have rows in common: \[4:7\]"):
        same("", "[-3:]")
    other = Source.parse(packed(tmp_path))
    assert not Source.parse(source).same_rows(other)
