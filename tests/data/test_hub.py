"""Data sets of the hub: which configuration, split and field a SOURCE means. All are local."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hub_data import write, write_rows

from edgewright.data.hub import open_hub
from edgewright.data.packing import Example
from edgewright.data.rows import Conversation, Turn
from edgewright.data.sources import Source
from edgewright.errors import EdgewrightError, UsageError

pytest.importorskip("datasets", reason="needs the extra `data`")


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two configurations with two splits each."""
    return write(tmp_path_factory.mktemp("several"), ("en", "de"), ("train", "test"))


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One configuration with two splits."""
    return write(tmp_path_factory.mktemp("single"), ("default",), ("train", "test"))


@pytest.mark.parametrize(
    ("rest", "config", "split", "field"),
    [
        ("", "default", "train", ""),
        (":test", "default", "test", ""),
        (":default", "default", "train", ""),
        (":text", "default", "train", "text"),
        (":default:test", "default", "test", ""),
        (":test:text", "default", "test", "text"),
        (":default:text", "default", "train", "text"),
        (":default:test:chat", "default", "test", "chat"),
    ],
)
def test_parts_mean_what_the_data_set_has(
    single: str, rest: str, config: str, split: str, field: str, capsys: Any
) -> None:
    open_hub.cache_clear()
    source = Source.parse(f"hf:{single}{rest}")
    found = source.hub
    assert (found.name, found.config, found.split, found.field) == (single, config, split, field)
    printed = " ".join(capsys.readouterr().err.split())
    assert f"configuration {config}, split {split}" in printed
    assert (f"field {field}" in printed) == bool(field)
    said = Conversation((Turn("user", "q"), Turn("assistant", "a")))
    expected = said if field == "chat" else Example(f"{config} {split} 0")
    assert next(source.training(0)) == expected


def test_configurations_are_named(several: str) -> None:
    with pytest.raises(UsageError, match="several configurations: en, de") as caught:
        next(Source.parse(f"hf:{several}").training(0))
    assert f"hf:{several}:en" in caught.value.hint
    rows = Source.parse(f"hf:{several}:de:test").training(0)
    assert [row.completion for row in rows if isinstance(row, Example)] == [
        "de test 0",
        "de test 1",
        "de test 2",
    ]


@pytest.mark.parametrize("rest", ["trian", "default:tset", "test:bodytext", "train:text:more"])
def test_what_the_data_set_does_not_have(single: str, rest: str) -> None:
    with pytest.raises(UsageError, match="is no part of the data set") as caught:
        next(Source.parse(f"hf:{single}:{rest}").training(0))
    known = "configurations: default; splits of default: train, test; fields: text, chat, n"
    assert known in str(caught.value)


def test_a_split_must_be_named_where_none_is_usual(tmp_path: Path) -> None:
    one = write(tmp_path / "one", ("default",), ("validation",))
    assert Source.parse(f"hf:{one}").hub.split == "validation"
    two = write(tmp_path / "two", ("default",), ("a", "b"))
    with pytest.raises(UsageError, match="no split train, but a, b") as caught:
        next(Source.parse(f"hf:{two}").training(0))
    assert f"hf:{two}:a" in caught.value.hint


def test_bad_rows_are_named(single: str) -> None:
    with pytest.raises(UsageError, match="row 1: field `n` is the number 0, neither text"):
        next(Source.parse(f"hf:{single}:n").training(0))


def test_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be opened") as caught:
        next(Source.parse(f"hf:{tmp_path / 'nowhere'}").training(0))
    assert caught.value.hint
    with pytest.raises(EdgewrightError, match="cannot be opened"):  # tests have no network
        next(Source.parse("hf:someone/something").training(0))


def test_fingerprint_covers_what_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    write(folder, ("default",), ("train", "test"))
    sources = [f"hf:{folder}{rest}" for rest in ("", ":test", ":text", ":test:text")]
    first = [Source.parse(source).fingerprint() for source in sources]
    assert len(set(first)) == 4
    same = [Source.parse(source).content_hash() for source in sources]
    assert same[0] == same[2] != same[1] == same[3]
    write_rows(folder / "default" / "test.parquet", [{"text": "other"}])
    second = [Source.parse(source).fingerprint() for source in sources]
    assert [a == b for a, b in zip(first, second, strict=True)] == [True, False, True, False]
