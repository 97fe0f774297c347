"""JSON and YAML of others: no document costs more than a moment, and each fault is one message."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from edgewright.documents import in_hand, parse_json, parse_yaml, read_object, read_text, to_yaml
from edgewright.errors import UsageError

ALIASES = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
YAML = {
    "aliases that stand for 430 million values": (ALIASES, "more than 100,000 values"),
    "a list that holds itself": ("a: &a [*a]", "nested deeper than 100 levels"),
    "brackets": ("[" * 250_000, "nested deeper"),
    "dashes": ("- " * 100_000, "nested deeper"),
    "a date that is none": ("a: 2020-99-99", "not valid YAML"),
    "a time that is none": ("a: !!timestamp x", "not valid YAML"),
    "a truth value that is none": ("a: !!bool x", "not valid YAML"),
    "an empty number": ("a: !!int ''", "not valid YAML"),
    "a number of 5000 digits": ("a: " + "9" * 5000, "not valid YAML"),
    "an object of Python": ("a: !!python/object/apply:os.system [x]", "not valid YAML"),
    "a list as key": ("{[a]: 1}", "not valid YAML"),
    "a key twice": ("b: 1\na: 1\na: 2", "here:3: the key `a` is given twice"),
    "a key twice, deeper": ("b:\n  - {a: 1, a: 2}", "here:2: the key `a` is given twice"),
    "two documents": ("a: 1\n---\na: 2", "not valid YAML"),
    "half of a character": ('a: "\\ud800"', "half of a surrogate pair"),
    "two halves, which YAML does not join": (r'a: "\uda59\udc6b"', "half of a surrogate pair"),
    "a control character": ("\x00", "not valid YAML"),
}
JSON = {
    "brackets": ("[" * 100_000, "nested deeper than 100 levels"),
    "closed brackets": ("[" * 150 + "]" * 150, "nested deeper"),
    "objects": ('{"a":' * 150 + "1" + "}" * 150, "nested deeper"),
    "a number of 5000 digits": ("9" * 5000, "not valid JSON"),
    "half of a character": (r'{"a": ["\ud800"]}', "half of a surrogate pair"),
    "half of a character in a key": (r'{"\ud800": 1}', "half of a surrogate pair"),
    "nothing": ("", "not valid JSON"),
    "no text": (b"\xff\xfe\x00", "not valid JSON"),
}


@pytest.mark.parametrize("name", YAML)
def test_yaml_that_is_refused(name: str) -> None:
    text, words = YAML[name]
    with pytest.raises(UsageError, match=words) as caught:
        parse_yaml(text, "here", "fix it")
    assert str(caught.value).startswith("here")
    assert caught.value.hint


@pytest.mark.parametrize("name", JSON)
def test_json_that_is_refused(name: str) -> None:
    text, words = JSON[name]
    with pytest.raises(UsageError, match=words) as caught:
        parse_json(text, "here", "fix it")
    assert str(caught.value).startswith("here")
    assert caught.value.hint == "fix it"


def test_ordinary_documents_are_read() -> None:
    assert parse_yaml("a: &x {b: 1}\nc: {<<: *x, d: [*x, 2020-01-01]}", "", "")[1]["c"]["b"] == 1
    assert parse_yaml("", "", "") == (None, None)
    deep = "[" * 90 + "]" * 90
    assert parse_json(deep, "", "") == parse_yaml(deep, "", "")[1]


def test_what_aliases_stand_for_is_not_shared() -> None:
    found = parse_yaml("a: &x {b: [1]}\nc: *x\nd: {<<: *x}", "", "")[1]
    found["a"]["b"].append(2)
    assert found == {"a": {"b": [1, 2]}, "c": {"b": [1]}, "d": {"b": [1]}}


@pytest.mark.parametrize(
    ("text", "number"),
    [("1e-3", 0.001), ("1E4", 1e4), ("-2.5e+1", -25.0), (".5e1", 5.0), ("1.e2", 100.0)],
)
def test_numbers_of_yaml_1_2(text: str, number: float) -> None:
    assert parse_yaml(f"[{text}, '{text}']", "", "")[1] == [number, text]
    assert to_yaml({"b": text, "a": [number]}).startswith(f"b: '{text}'\na:")
    assert parse_yaml(to_yaml([text, number]), "", "")[1] == [text, number]


@pytest.mark.parametrize("text", ["1e", "e3", "1e3x", "1_0e", "v1e3", "1e3 4", "1-e3"])
def test_what_only_begins_like_a_number_is_text(text: str) -> None:
    assert parse_yaml(text, "", "")[1] == text


def test_a_file_that_never_ends_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    found: list[str] = []

    def read() -> None:
        try:
            read_text(tmp_path / "config.json", "")
        except UsageError as error:
            found.append(str(error))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(60)
    assert found == [f"{tmp_path}/config.json: cannot be read: it is no file"]


@pytest.mark.parametrize("name", ["a" * 300, "a\x00b", "missing", "."])
def test_names_that_are_no_file(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_text(tmp_path / name, "")


def test_sizes_and_kinds(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("[" + "1," * 600 + "1]")
    with pytest.raises(UsageError, match="larger than 1 kB"):
        read_object(tmp_path / "a", "", 1024)
    with pytest.raises(UsageError, match="not a JSON object"):
        read_object(tmp_path / "a", "")


def test_an_unexpected_error_names_the_file_in_hand() -> None:
    with pytest.raises(ZeroDivisionError) as caught, in_hand("model/config.json"):
        _ = 1 / 0
    assert caught.value.__notes__ == ["while reading model/config.json"]
