"""SOURCE strings: every kind of source, and every way it can be wrong."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from jsonl_source import jsonl

from edgewright.data.packing import Example
from edgewright.data.sources import Source, training_rows
from edgewright.errors import EdgewrightError, UsageError

pytest_plugins = ["data_fixtures"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a data source"),
        ("story.txt", "not a data source"),
        ("csv:story.txt", "csv:story.txt: not a data source"),
        ("builtin:", "no such built-in data"),
        ("builtin:poetry", "no such built-in data"),
        ("hf:", "not a data source"),
        ("text:", "no such file"),
        ("text:missing.txt", "no such file: missing.txt"),
        ("jsonl:missing.jsonl", "no such file: missing.jsonl"),
        ("jsonl:missing.jsonl:text", "no such file: missing.jsonl"),
        ("parquet:missing.parquet", "no such file: missing.parquet"),
    ],
)
def test_bad_source_strings(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        Source.parse(text)
    assert caught.value.hint
    assert caught.value.exit_code == 2


def test_directories_and_empty_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        Source.parse(f"text:{tmp_path}")
    (tmp_path / "empty.txt").touch()
    with pytest.raises(UsageError, match="the file is empty"):
        Source.parse(f"text:{tmp_path / 'empty.txt'}")


def test_good_source_strings(tmp_path: Path) -> None:
    file = tmp_path / "with:colon.jsonl"
    file.write_text("{}")
    assert Source.parse(f"jsonl:{file}") == Source("jsonl", str(file))
    assert Source.parse(f"jsonl:{file}:body") == Source("jsonl", str(file), "body")
    assert Source.parse(f"text:{file}") == Source("text", str(file))
    assert Source.parse("hf:wikitext:wikitext-2-raw-v1:test") == Source(
        "hf", "wikitext", "wikitext-2-raw-v1:test"
    )
    for text in (
        f"jsonl:{file}:body",
        f"jsonl:{file}",
        "hf:wikitext:a:b",
        "hf:wikitext",
        "builtin:reasoning",
    ):
        assert str(Source.parse(text)) == text
    assert (Source.parse(f"jsonl:{file}:body").label, Source.parse("builtin:reasoning").label) == (
        "with:colon",
        "reasoning",
    )


def test_fingerprint_follows_the_content(tmp_path: Path) -> None:
    one, two = tmp_path / "one.txt", tmp_path / "two.txt"
    one.write_text("same")
    two.write_text("same")
    first, second = Source.parse(f"text:{one}"), Source.parse(f"text:{two}")
    assert first.fingerprint() == second.fingerprint()
    two.write_text("other")
    assert first.fingerprint() != second.fingerprint()
    assert Source.parse("hf:a").fingerprint() != Source.parse("hf:b").fingerprint()


# Reading files


def test_text_is_read_whole_and_in_order(tmp_path: Path, tokenizer: Any) -> None:
    text = "".join(f"line {i} ends\n" for i in range(4500)) + "and no newline"
    (tmp_path / "long.txt").write_text(text)
    source = Source.parse(f"text:{tmp_path / 'long.txt'}")
    examples = list(source.training(0))
    assert len(examples) > 1
    assert "".join(e.completion for e in examples) == text
    decoded = tokenizer.decode(
        [i for row in training_rows(tokenizer, source, 64, 0) for i in row.ids]
    )
    assert text.startswith(decoded)
    assert 0 <= len(text) - len(decoded) < 64 * 8


@pytest.mark.parametrize(
    ("row", "example"),
    [
        ({"text": "a"}, Example("a")),
        ({"id": 1, "content": "a"}, Example("a")),
        ({"question": "q", "answer": "a"}, Example("a", "q")),
        ({"prompt": "q", "completion": "a"}, Example("a", "q")),
        ({"instruction": "q", "output": "a"}, Example("a", "q")),
        ({"completion": "a"}, Example("a")),
        ({"instruction": "q", "input": "x", "output": "a"}, Example("a", "q\nx")),
        ({"text": "a", "note": None}, Example("a")),
    ],
)
def test_rows_of_jsonl(row: dict[str, Any], example: Example, tmp_path: Path) -> None:
    source = jsonl(tmp_path / "a.jsonl", row, row)
    assert list(source.training(0)) == [example, example] == list(source.scoring(5))


def test_field_that_is_named(tmp_path: Path) -> None:
    jsonl(tmp_path / "a.jsonl", {"text": "no", "body": "yes"})
    assert list(Source.parse(f"jsonl:{tmp_path / 'a.jsonl'}:body").training(0)) == [Example("yes")]


@pytest.mark.parametrize(
    ("content", "field", "message"),
    [
        (b'{"text": "a"}\n\n{"text": \n', "", "line 3: not JSON"),
        (b'{"text": "a"}\n[1, 2]\n', "", "line 2: not a JSON object"),
        (b'{"text": "a"}\n{"text": "\xff\xfe"}\n', "", "line 2: not UTF-8"),
        (b'{"title": "a", "body": "b"}\n', "", "row 1: no text field among title, body"),
        (b'{"title": "a", "body": "b"}\n', "text", "row 1: no field `text`"),
        (b"\n\n", "", "no rows"),
    ],
)
def test_bad_jsonl(content: bytes, field: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_bytes(content)
    source = Source.parse(f"jsonl:{file}" + (f":{field}" if field else ""))
    with pytest.raises(UsageError, match=message) as caught:
        list(source.training(0))
    assert str(file) in str(caught.value)
    assert "title, body" in caught.value.hint if field else caught.value.hint


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("déjà vu\n".encode("latin-1"))
    with pytest.raises(UsageError, match=r"latin\.txt: not UTF-8 text") as caught:
        list(Source.parse(f"text:{tmp_path / 'latin.txt'}").training(0))
    assert "UTF-8" in caught.value.hint


def test_files_have_no_verifier(text_file: Path) -> None:
    with pytest.raises(UsageError, match="has no verifier"):
        Source.parse(f"text:{text_file}").problems(4)


def test_tables_need_an_extra_or_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(EdgewrightError, match="need the datasets package") as caught:
        list(Source.parse(f"parquet:{tmp_path / 'a.parquet'}").training(0))
    assert "edgewright[data]" in caught.value.hint
