"""Conversations get the tokens of transformers' own rendering, and the assistant's are learned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from chat_templates import (
    CHATML,
    EMPTY_THOUGHTS,
    EVERY,
    HEADERS,
    MARKED,
    OPENS_THOUGHTS,
    STRICT,
    with_template,
)
from jsonl_source import jsonl

from edgewright.data.conversations import render_conversation
from edgewright.data.packing import IGNORE, Encoded, encode
from edgewright.data.rows import BadRow, Conversation, Example, RowReport, Turn, parse_row
from edgewright.data.sources import Source, scoring_rows, training_rows
from edgewright.errors import UsageError

pytest_plugins = ["data_fixtures"]

Message = dict[str, Any]


def talk(*said: str, system: str = "") -> list[Message]:
    """Messages of a user and an assistant in turns."""
    roles = ("user", "assistant")
    turns = [{"role": roles[n % 2], "content": text} for n, text in enumerate(said)]
    return ([{"role": "system", "content": system}] if system else []) + turns


ONE = talk("What is 2 + 3?", "5")
LONG = talk("2 + 3?", "It is 5.", "And 4 + 4?", "8\n\nDone. 🙂", system="Be brief.")
PARTS = [{"role": m["role"], "content": [{"type": "text", "text": m["content"]}]} for m in LONG]
SHAREGPT = {"system": "system", "user": "human", "assistant": "gpt"}
SHARED = [{"from": SHAREGPT[m["role"]], "value": m["content"]} for m in LONG]
COLUMNS = {key: [m[key] for m in LONG] for key in ("role", "content")}
FILES: dict[str, tuple[dict[str, Any], str, list[Message]]] = {
    "messages": ({"messages": ONE}, "", ONE),
    "several turns and a system prompt": ({"id": 7, "messages": LONG}, "", LONG),
    "content in parts": ({"messages": PARTS}, "", LONG),
    "ShareGPT": ({"conversations": SHARED}, "", LONG),
    "ShareGPT with a system field": (
        {"system": "Be brief.", "conversations": SHARED[1:]},
        "",
        LONG,
    ),
    "a named field": ({"text": "no", "chat": LONG}, "chat", LONG),
    "TRL": ({"prompt": LONG[:-1], "completion": LONG[-1:]}, "", LONG),
    "prompt and completion": ({"prompt": "What is 2 + 3?", "completion": "5"}, "", ONE),
    "Alpaca": ({"instruction": "Add.", "input": "", "output": "5"}, "", talk("Add.", "5")),
    "Alpaca with input": (
        {"instruction": "Add.", "input": "2, 3", "output": "5"},
        "",
        talk("Add.\n2, 3", "5"),
    ),
    "a table of messages": ({"messages": COLUMNS}, "", LONG),
}


def learned(tokenizer: Any, row: Encoded) -> str:
    """The text of the tokens that are scored."""
    return tokenizer.decode([label for label in row.labels if label != IGNORE])


@pytest.mark.parametrize("template", ["chatml", "headers", "marked"])
@pytest.mark.parametrize("kind", FILES)
def test_files_give_the_tokens_of_transformers(
    kind: str, template: str, tokenizer: Any, tmp_path: Path
) -> None:
    chat = with_template(tokenizer, EVERY[template])
    row, field, messages = FILES[kind]
    source = jsonl(tmp_path / "a.jsonl", row, row)
    if field:
        source = Source.parse(f"{source}:{field}")
    expected = chat.apply_chat_template(messages, tokenize=True, return_dict=False)
    scored = scoring_rows(chat, source, 512, 2)
    assert [one.ids for one in scored] == [expected, expected]
    answers = [m["content"] for m in messages if m["role"] == "assistant"]
    kept = answers[-1:] if kind == "TRL" else answers
    assert learned(chat, scored[0]) == "".join(f"{answer}<|im_end|>" for answer in kept)


@pytest.mark.parametrize("name", EVERY)
def test_every_template_keeps_its_tokens(name: str, tokenizer: Any) -> None:
    chat = with_template(tokenizer, EVERY[name])
    messages = LONG[1:] if name in ("strict", "opens thoughts") else LONG
    row = encode(chat, parse_row({"messages": messages}, "", "a.jsonl, row 1"))
    assert row.ids == chat.apply_chat_template(messages, tokenize=True, return_dict=False)
    end = "<|endoftext|>" if name == "strict" else "<|im_end|>"
    thoughts = "<think>\n\n</think>\n\n" if name == "empty thoughts" else ""
    first = "" if name == "empty thoughts" else f"It is 5.{end}"
    told = learned(chat, row).replace(" It", "It").replace(" 8", "8")
    assert told == f"{first}{thoughts}8\n\nDone. 🙂{end}"


def test_only_the_last_turn_of_a_template_that_changes_earlier_ones(tokenizer: Any) -> None:
    chat = with_template(tokenizer, EMPTY_THOUGHTS)
    report = RowReport()
    for messages in (LONG, LONG, ONE):
        encode(chat, parse_row({"messages": messages}, "", "x"), report)
    assert report.last_turn_only == 2
    (note,) = report.notes("jsonl:a.jsonl")
    assert "only the last assistant turn of 2 conversations" in note


def test_a_last_turn_that_cannot_be_found_is_a_bad_row(tokenizer: Any) -> None:
    chat = with_template(tokenizer, EMPTY_THOUGHTS)
    with pytest.raises(BadRow, match="row 3: the chat template changes the conversation"):
        encode(chat, parse_row({"messages": LONG[:4]}, "", "a.jsonl, row 3"))


def test_pairs_keep_thoughts_that_a_template_drops(tokenizer: Any) -> None:
    chat = with_template(tokenizer, OPENS_THOUGHTS)
    row = encode(chat, Example("2+3=5\n</think>\n5", "2 + 3?"))
    rendered = "<|user|>2 + 3?<|assistant|><think>\n2+3=5\n</think>\n5<|endoftext|>"
    assert chat.decode(row.ids) == rendered
    assert learned(chat, row) == "2+3=5\n</think>\n5<|endoftext|>"


def test_pairs_end_as_the_template_ends_a_turn(tokenizer: Any) -> None:
    chat = with_template(tokenizer, CHATML)
    assert chat.eos_token == "<|endoftext|>"
    row = encode(chat, Example("5", "2 + 3?"))
    assert chat.decode(row.ids).endswith("<|im_start|>assistant\n5<|im_end|>\n")
    assert learned(chat, row) == "5<|im_end|>"


@pytest.mark.parametrize("template", [CHATML, MARKED])
def test_turns_before_a_completion_are_context(template: str, tokenizer: Any) -> None:
    chat = with_template(tokenizer, template)
    row = parse_row({"prompt": LONG[:4], "completion": LONG[4:]}, "", "x")
    assert learned(chat, encode(chat, row)) == "8\n\nDone. 🙂<|im_end|>"


@pytest.mark.parametrize("template", [CHATML, HEADERS])
def test_an_assistant_may_begin(template: str, tokenizer: Any) -> None:
    chat = with_template(tokenizer, template)
    messages = [{"role": "assistant", "content": "Hello."}, *ONE]
    row = encode(chat, parse_row({"messages": messages}, "", "x"))
    assert row.ids == chat.apply_chat_template(messages, tokenize=True, return_dict=False)
    assert learned(chat, row) == "Hello.<|im_end|>5<|im_end|>"


def test_no_token_is_put_before_the_templates_own(tokenizer: Any, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "tokenizer.json").read_text())
    first = {"SpecialToken": {"id": "<|user|>", "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    settings["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [first, text],
        "pair": [first, text, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|user|>": {"id": "<|user|>", "ids": [1], "tokens": ["<|user|>"]}},
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(settings))
    chat = with_template(type(tokenizer).from_pretrained(tmp_path), HEADERS)
    chat.bos_token = "<|user|>"
    source = jsonl(tmp_path / "a.jsonl", *[{"messages": LONG}] * 20)
    (row,) = scoring_rows(chat, source, 512, 1)
    assert row.ids == chat.apply_chat_template(LONG, tokenize=True, return_dict=False)
    assert row.ids.count(1) == 1
    assert all(r.ids.count(1) == 1 == r.ids[0] for r in training_rows(chat, source, 64, 0))


def test_tools_and_other_fields_reach_the_template(tokenizer: Any) -> None:
    template = CHATML.replace("{{ m['content'] }}", "{{ m.content }}{{ m.tool_calls }}")
    chat = with_template(tokenizer, template)
    call = {"name": "add", "arguments": {"a": 2}}
    messages = [
        *ONE[:1],
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "5", "tool_calls": None},
        *ONE[1:],
    ]
    row = encode(chat, parse_row({"messages": messages}, "", "x"))
    assert row.ids == chat.apply_chat_template(messages, tokenize=True, return_dict=False)
    assert "add" in learned(chat, row)


def test_without_a_template_the_text_is_plain(tokenizer: Any) -> None:
    chat = with_template(tokenizer, None)
    row = encode(chat, parse_row({"messages": LONG}, "", "x"))
    assert chat.decode(row.ids) == (
        "Be brief.\n\nQuestion: 2 + 3?\nAnswer: It is 5.<|endoftext|>\n\n"
        "Question: And 4 + 4?\nAnswer: 8\n\nDone. 🙂<|endoftext|>"
    )
    assert learned(chat, row) == " It is 5.<|endoftext|> 8\n\nDone. 🙂<|endoftext|>"
    tool = Conversation((Turn("tool", "5"), Turn("assistant", "5")), where="a.jsonl, row 2")
    with pytest.raises(BadRow, match="row 2: turn 1 calls a tool") as caught:
        render_conversation(chat, tool)
    assert caught.value.hint


def test_what_a_template_refuses_is_a_bad_row(tokenizer: Any, tmp_path: Path) -> None:
    chat = with_template(tokenizer, STRICT)
    source = jsonl(tmp_path / "a.jsonl", {"messages": LONG}, {"messages": ONE})
    with pytest.raises(UsageError, match=r"a\.jsonl, row 1: the chat template.*must alternate"):
        scoring_rows(chat, source, 512, 2)
    report = RowReport("skip")
    assert len(scoring_rows(chat, source, 512, 2, report)) == 1
    assert report.skipped == 1


def test_a_tokenizer_without_offsets(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    chat = with_template(tokenizer, CHATML)
    row = parse_row({"messages": LONG}, "", "x")
    fast = encode(chat, row)
    monkeypatch.setattr(type(chat), "is_fast", property(lambda _: False))
    assert encode(chat, row) == fast


def test_conversations_calibrate_in_packed_rows(tokenizer: Any, tmp_path: Path) -> None:
    source = jsonl(tmp_path / "a.jsonl", *[{"messages": LONG}] * 30)
    chat = with_template(tokenizer, CHATML)
    whole = chat.apply_chat_template(LONG, tokenize=True, return_dict=False)
    rows = list(training_rows(chat, source, 32, 0))
    joined = [token for row in rows for token in row.ids]
    assert joined == (whole * 30)[: len(joined)]
    assert {len(row.ids) for row in rows} == {32}
