"""Rows as typed objects: what is no text is refused by file, row and field, or skipped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonl_source import jsonl

from edgewright.data.rows import BadRow, Conversation, Example, RowReport, Turn, parse_row
from edgewright.data.sources import Source, scoring_rows, training_rows
from edgewright.errors import UsageError

pytest_plugins = ["data_fixtures"]

USER, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
NO_TEXT = {
    "null": None,
    "the number 5": 5,
    "the number nan": float("nan"),
    "the truth value true": True,
    "a list": ["a"],
    "an object": {"a": "b"},
}


def turns(*messages: Any) -> dict[str, Any]:
    return {"messages": list(messages)}


@pytest.mark.parametrize("kind", NO_TEXT)
@pytest.mark.parametrize(
    ("field", "row"),
    [
        ("text", {}),
        ("content", {}),
        ("question", {"answer": "a"}),
        ("answer", {"question": "q"}),
        ("prompt", {"completion": "a"}),
        ("completion", {"prompt": "q"}),
        ("instruction", {"output": "a"}),
        ("output", {"instruction": "q", "input": ""}),
    ],
)
def test_no_value_becomes_text(field: str, row: dict[str, Any], kind: str) -> None:
    with pytest.raises(BadRow) as caught:
        parse_row({**row, field: NO_TEXT[kind]}, "", "a.jsonl, row 4")
    assert str(caught.value) == f"a.jsonl, row 4: field `{field}` is {kind}, not text"
    assert caught.value.exit_code == 2
    assert caught.value.hint


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "input": ({"instruction": "q", "input": 5, "output": "a"}, "`input` is the number 5"),
    "empty completion": ({"prompt": "q", "completion": ""}, "`completion` is empty"),
    "half a character": ({"text": "a\ud83d"}, "half of a surrogate pair"),
    "messages as text": ({"messages": "[{}]"}, "`messages` is text, neither"),
    "null": ({"messages": None}, "`messages` is null, neither text nor a conversation"),
    "nothing said": ({"messages": []}, "`messages` is an empty conversation"),
    "empty table": ({"messages": {"role": [], "content": []}}, "empty conversation"),
    "uneven table": ({"messages": {"role": ["user"], "content": []}}, "is an object, neither"),
    "words": (turns("hello"), "`messages`, turn 1 is text, not a message"),
    "no role": (turns({"content": "q"}), "turn 1 has neither `role` nor `from`"),
    "unknown role": (turns(USER, {**ANSWER, "role": "poet"}), "turn 2: unknown role 'poet'"),
    "role of no text": (turns({**USER, "role": None}), "turn 1: unknown role None"),
    "unknown speaker": (
        {"conversations": [{"from": "bard", "value": "q"}]},
        "`conversations`, turn 1: unknown role 'bard'",
    ),
    "no content": (turns({"role": "user"}), "turn 1, `content` is null, not text"),
    "null content": (turns(USER, {**ANSWER, "content": None}), "turn 2, `content` is null"),
    "empty content": (turns(USER, {**ANSWER, "content": ""}), "turn 2, `content` is empty"),
    "number said": (
        {"conversations": [{"from": "human", "value": 3}]},
        "turn 1, `value` is the number 3, not text",
    ),
    "image": (
        turns({**USER, "content": [{"type": "image", "url": "x"}]}),
        "turn 1, `content`, part 1 is of the type 'image', not text",
    ),
    "part without text": (
        turns({**USER, "content": [{"type": "text", "text": None}]}),
        "`content`, part 1 is null, not text",
    ),
    "no parts": (turns({**USER, "content": []}), "`content` is a list, not text"),
    "no answer": (turns(USER), "`messages` has no turn of the assistant"),
    "no answer to learn": (
        {"prompt": [USER, ANSWER], "completion": [USER]},
        "`completion` has no turn of the assistant",
    ),
    "text and turns": ({"prompt": "q", "completion": [ANSWER]}, "`completion` is a list, not text"),
    "system": ({"system": 4, "conversations": [USER, ANSWER]}, "`system` is the number 4"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_rows_are_named_or_skipped(kind: str, tmp_path: Path) -> None:
    row, message = BAD[kind]
    good = {"text": "good"}
    source = jsonl(tmp_path / "a.jsonl", good, row, good)
    with pytest.raises(BadRow) as caught:
        list(source.training(0))
    assert f"{tmp_path / 'a.jsonl'}, row 2: " in str(caught.value)
    assert message in str(caught.value)
    report = RowReport("skip")
    assert list(source.training(0, report)) == [Example("good")] * 2
    assert report.skipped == 1
    assert message in report.notes(str(source))[0]


def test_the_hint_names_the_option_where_there_is_one(tmp_path: Path, tokenizer: Any) -> None:
    source = jsonl(tmp_path / "a.jsonl", {"text": None})
    for rows in (
        lambda report: training_rows(tokenizer, source, 16, 0, report=report),
        lambda report: scoring_rows(tokenizer, source, 16, 1, report),
    ):
        with pytest.raises(UsageError, match="row 1") as caught:
            rows(RowReport())
        assert "--bad-rows skip" in caught.value.hint
        with pytest.raises(UsageError, match=r"no rows.*1 row was skipped.*is null, not text"):
            rows(RowReport("skip"))
    with pytest.raises(UsageError) as caught:
        list(source.training(0))
    assert "--bad-rows" not in caught.value.hint


def test_a_missing_field_is_a_bad_row(tmp_path: Path) -> None:
    jsonl(tmp_path / "a.jsonl", {"text": "a"}, {"title": "b"})
    for source in (f"jsonl:{tmp_path / 'a.jsonl'}", f"jsonl:{tmp_path / 'a.jsonl'}:text"):
        report = RowReport("skip")
        assert list(Source.parse(source).training(0, report)) == [Example("a")]
        assert report.skipped == 1


def test_empty_texts_are_rows_without_tokens(tmp_path: Path, tokenizer: Any) -> None:
    full = [{"text": "The harbour was quiet. "}] * 20
    dense = training_rows(tokenizer, jsonl(tmp_path / "a.jsonl", *full), 16, 0)
    gaps = training_rows(tokenizer, jsonl(tmp_path / "b.jsonl", {"text": ""}, *full), 16, 0)
    assert list(dense) == list(gaps)
    with pytest.raises(UsageError, match="fewer than 16 tokens"):
        training_rows(tokenizer, jsonl(tmp_path / "c.jsonl", *[{"text": ""}] * 9), 16, 0)


def test_what_a_row_is(tmp_path: Path) -> None:
    said = Conversation((Turn("user", "q"), Turn("assistant", "a")))
    assert parse_row(turns(USER, ANSWER), "", "x") == said
    assert parse_row({"messages": "q", "x": 1}, "messages", "x") == Example("q")
    assert parse_row({"chat": [USER, ANSWER], "text": "t"}, "chat", "x") == said
    assert parse_row({"messages": [USER, ANSWER], "text": "t"}, "", "x") == said
    pair = {"question": "q", "answer": "a", "messages": [USER, ANSWER]}
    assert parse_row(pair, "", "x") == Example("a", "q")
    assert parse_row({"prompt": "", "completion": "a"}, "", "x") == Example("a")
    assert parse_row({"instruction": "", "input": "q", "output": "a"}, "", "x").prompt == "q"
    assert parse_row({"instruction": "q", "input": None, "output": "a"}, "", "x").prompt == "q"
    silent = parse_row(turns({"role": "system", "content": ""}, USER, ANSWER), "", "x")
    assert silent.turns[0] == Turn("system", "")
    completion = parse_row({"prompt": [USER], "completion": [ANSWER]}, "", "x")
    assert (completion.learned, completion.learned_from) == ([1], 1)
    assert json.loads(json.dumps(silent.messages))[1] == USER
