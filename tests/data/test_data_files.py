"""Files of data as people have them: byte-order marks, line ends, empty lines, arrays, Parquet."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from edgewright.data.files import json_lines
from edgewright.data.packing import Example
from edgewright.data.rows import Conversation, Turn
from edgewright.data.sources import Source, scoring_rows
from edgewright.errors import UsageError

pytest_plugins = ["data_fixtures"]

MARK = b"\xef\xbb\xbf"
ROWS = [{"text": "one"}, {"text": "zwei ü"}, {"text": "three\u2028lines"}]
LINES = [json.dumps(row, ensure_ascii=False).encode() for row in ROWS]
FORMS = {
    "plain": b"\n".join(LINES) + b"\n",
    "no newline at the end": b"\n".join(LINES),
    "byte-order mark": MARK + b"\n".join(LINES),
    "joined files with marks": b"\n".join(MARK + line for line in LINES),
    "CRLF": b"\r\n".join(LINES) + b"\r\n",
    "mark and CRLF": MARK + b"\r\n".join(LINES) + b"\r\n",
    "empty lines": b"\n\n \t\n" + b"\n\r\n\n".join(LINES) + b"\n\n",
    "indented": b"\n".join(b"  " + line + b"  " for line in LINES),
    "JSON array": json.dumps(ROWS, indent=2).encode(),
    "JSON array with a mark": MARK + json.dumps(ROWS).encode() + b"\r\n",
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_json_file(form: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(FORMS[form])
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(FORMS[form]))
    for name in ("a.jsonl", "b.jsonl.gz"):
        assert list(json_lines(str(tmp_path / name))) == ROWS
        found = list(Source.parse(f"jsonl:{tmp_path / name}").training(0))
        assert found == [Example(row["text"]) for row in ROWS]


PACKED = gzip.compress(b"\n".join([LINES[0]] * 5000))
DAMAGED = {
    "cut off": PACKED[:-20],
    "only a header": PACKED[:10],
    "a wrong byte": PACKED[:30] + b"\xff\x00\xff" + PACKED[33:],
    "a wrong sum": PACKED[:-8] + b"abcd" + PACKED[-4:],
    "text behind it": PACKED + b"text",
    "not gzip": LINES[0],
    "an array that is cut off": gzip.compress(json.dumps(ROWS * 5000).encode())[:-20],
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_gzip_file(damage: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(DAMAGED[damage])
    with pytest.raises(UsageError, match=r"a\.jsonl\.gz: not a gzip file, or damaged") as caught:
        list(Source.parse(f"jsonl:{tmp_path / 'a.jsonl.gz'}").training(0))
    assert caught.value.hint


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\n\r\n \n", "no rows"),
        (MARK + b"\n", "no rows"),
        (b"[]", "no rows"),
        (b'[{"text": "a"}, 5]', "row 2: not a JSON object"),
        (b'[1]\n{"text": "a"}', "line 1: not a JSON object"),
        (b'{"text": NaN}', "row 1: field `text` is the number nan, not text"),
        (b'{"text": "a"}\n\n\n{"text": null}', r"row 2 \(line 4\): field `text` is null"),
        (b'{"text": ' + b"[" * 100_000, "line 1: not JSON"),
        (b'{"text": ' + b"9" * 5000 + b"}", "line 1: not JSON"),
        ('{"text": "a"}'.encode("utf-16"), "line 1: not UTF-8"),
    ],
)
def test_broken_json_files(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(UsageError, match=message) as caught:
        list(Source.parse(f"jsonl:{tmp_path / 'a.jsonl'}").training(0))
    assert str(tmp_path / "a.jsonl") in str(caught.value)


def test_text_files_read_the_same_in_every_form(tmp_path: Path, tokenizer: Any) -> None:
    text = "".join(f"line {n} with an ü\n" for n in range(200))
    forms = {
        "plain": text.encode(),
        "marked": MARK + text.encode(),
        "crlf": MARK + text.replace("\n", "\r\n").encode(),
    }
    rows = []
    for name, content in forms.items():
        (tmp_path / f"{name}.txt").write_bytes(content)
        source = Source.parse(f"text:{tmp_path / name}.txt")
        rows.append(scoring_rows(tokenizer, source, 32, 10))
    assert rows[0] == rows[1] == rows[2]
    (tmp_path / "empty.txt").write_bytes(MARK + b"\r\n \n" * 10_000)
    with pytest.raises(UsageError, match=r"empty\.txt: the file has only white space"):
        list(Source.parse(f"text:{tmp_path / 'empty.txt'}").training(0))


def test_nested_parquet(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow", reason="needs the extra `data`")
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra `data`")
    message = arrow.struct([("role", arrow.string()), ("content", arrow.string())])
    said = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    table = arrow.table(
        {
            "messages": arrow.array([said, said, None], arrow.list_(message)),
            "body": arrow.array(["b", None, "c"]),
        }
    )
    file = tmp_path / "a.parquet"
    parquet.write_table(table, file)
    rows = Source.parse(f"parquet:{file}").training(0)
    expected = Conversation((Turn("user", "q"), Turn("assistant", "a")))
    assert [next(rows), next(rows)] == [expected, expected]
    with pytest.raises(UsageError, match=r"a\.parquet, row 3: field `messages` is null"):
        next(rows)
    rows = Source.parse(f"parquet:{file}:body").training(0)
    assert next(rows) == Example("b")
    with pytest.raises(UsageError, match=r"a\.parquet, row 2: field `body` is null"):
        next(rows)


def test_a_file_that_is_no_parquet(tmp_path: Path) -> None:
    pytest.importorskip("datasets", reason="needs the extra `data`")
    (tmp_path / "a.parquet").write_text('{"text": "a"}\n')
    with pytest.raises(UsageError, match=r"a\.parquet: not a Parquet file"):
        list(Source.parse(f"parquet:{tmp_path / 'a.parquet'}").training(0))
