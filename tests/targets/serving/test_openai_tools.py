"""Tools with the real `openai` client: given to the template, called, and answered."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from openai_helpers import (  # isort: skip
    HELLO,
    HERMES,
    LLAMA,
    MISTRAL,
    PLAIN,
    MakeServer,
    Says,
    chat,
    client_of,
)
from server_helpers import Running  # isort: skip

pytest_plugins = ["openai_fixtures"]
TEMPLATE = HERMES
UNIT = {"type": "string", "enum": ["C", "F"]}
HEAT: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "heat",
        "description": "the temperature",
        "parameters": {
            "type": "object",
            "properties": {"day": {"type": "integer", "minimum": 0, "maximum": 9}, "unit": UNIT},
            "required": ["day", "unit"],
            "additionalProperties": False,
        },
    },
}
ADD: dict[str, Any] = {"type": "function", "function": {"name": "add"}}
TOOLS = [HEAT, ADD]
CALL = '<tool_call>\n{"name": "heat", "arguments": {"day": 3, "unit": "C"}}\n</tool_call>'
OTHER = '<tool_call>\n{"name": "add", "arguments": {}}\n</tool_call>'


def calls(client: Any, stream: bool = False, **more: Any) -> tuple[str, list[Any], str]:
    """The content, the calls (name and arguments), and the reason of an answer."""
    answer = chat(client, **{"tools": TOOLS, "max_tokens": 300, "stream": stream, **more})
    if not stream:
        choice = answer.choices[0]
        made = choice.message.tool_calls or []
        content = choice.message.content or ""
    else:
        choices = [event.choices[0] for event in answer]
        choice = choices[-1]
        made = [call for one in choices for call in one.delta.tool_calls or []]
        assert [call.index for call in made] == list(range(len(made)))
        content = "".join(one.delta.content or "" for one in choices)
    assert len({call.id for call in made}) == len(made)
    assert all(call.type == "function" for call in made)
    found = [(call.function.name, json.loads(call.function.arguments)) for call in made]
    return content, found, choice.finish_reason


HEAT_CALL = ("heat", {"day": 3, "unit": "C"})


@pytest.mark.parametrize("stream", [False, True])
def test_27_tools(client: Any, says: Says, stream: bool) -> None:
    says(CALL)
    assert calls(client, stream) == ("", [HEAT_CALL], "tool_calls")
    assert chat(client, tools=TOOLS, max_tokens=300).choices[0].message.content is None
    says(f"Let me see.\n{CALL}\n{OTHER}\n")
    assert calls(client, stream) == ("Let me see.", [HEAT_CALL, ("add", {})], "tool_calls")


@pytest.mark.parametrize("stream", [False, True])
def test_51_one_call_only_if_the_request_says_so(client: Any, says: Says, stream: bool) -> None:
    says(f"{CALL}\n{OTHER}")
    found = calls(client, stream, parallel_tool_calls=False)
    assert found == ("", [HEAT_CALL], "tool_calls")


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>\nnot JSON\n</tool_call>",
        CALL.replace("heat", "cool"),
        CALL.replace("arguments", "args").replace('{"day": 3, "unit": "C"}', "3").replace("he", ""),
        CALL.removesuffix("}\n</tool_call>"),
        "no call, 1 < 2",
        "<tool",
        "{}",
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_no_call_stays_text(client: Any, says: Says, text: str, stream: bool) -> None:
    says(text)
    assert calls(client, stream) == (text, [], "stop")


def test_a_call_without_its_end_is_still_a_call(client: Any, says: Says) -> None:
    says(CALL.removesuffix("</tool_call>"))
    assert calls(client) == ("", [HEAT_CALL], "tool_calls")


@pytest.mark.parametrize("stream", [False, True])
def test_28_a_call_that_is_required(client: Any, says: Says, stream: bool) -> None:
    """Whatever the model prefers: the call is complete, and its arguments follow the schema."""
    says("I would rather talk")
    for choice, names in (
        ("required", {"heat", "add"}),
        ({"type": "function", "function": {"name": "heat"}}, {"heat"}),
        ({"type": "function", "function": {"name": "add"}}, {"add"}),
    ):
        content, made, reason = calls(
            client, stream, tool_choice=choice, temperature=1.0, max_tokens=1500
        )
        ((name, arguments),) = made
        assert (content, reason) == ("", "tool_calls")
        assert name in names
        if name == "heat":
            assert set(arguments) == {"day", "unit"}
            assert arguments["day"] in range(10)
            assert arguments["unit"] in ("C", "F")


def test_52_strict_arguments_follow_the_schema_also_if_the_model_chooses(
    client: Any, says: Says
) -> None:
    strict = {"type": "function", "function": {**HEAT["function"], "strict": True}}
    wrong = CALL.replace("3", "88").replace('"C"', '"K"')
    says(f"So: {wrong}")
    content, made, reason = calls(client, tools=[strict, ADD])
    ((name, arguments),) = made
    assert (content, name, reason) == ("So:", "heat", "tool_calls")
    assert arguments["day"] in range(10)
    assert arguments["unit"] in ("C", "F")
    assert calls(client) == ("So:", [("heat", {"day": 88, "unit": "K"})], "tool_calls")
    says("no call at all")
    assert calls(client, tools=[strict]) == ("no call at all", [], "stop")


def test_50_no_call_if_the_request_says_so(client: Any, says: Says) -> None:
    says(CALL)
    assert calls(client, tool_choice="none") == (CALL, [], "stop")
    assert calls(client, tool_choice="auto") == ("", [HEAT_CALL], "tool_calls")
    with_tools = chat(client, tools=TOOLS).usage.prompt_tokens
    assert chat(client).usage.prompt_tokens < with_tools
    assert chat(client, tools=TOOLS, tool_choice="none").usage == chat(client).usage


def test_29_the_result_of_a_call(client: Any, openai_server: Running, says: Says) -> None:
    says(CALL)
    message = chat(client, tools=TOOLS, max_tokens=300).choices[0].message
    (call,) = message.tool_calls
    result = {"role": "tool", "tool_call_id": call.id, "content": "21"}
    turns = [*HELLO, message, result]
    vocabulary = openai_server.service.prompts.vocabulary
    ids = vocabulary.encode(
        '<|user|>user: 1+1<|endoftext|><|user|>assistant:  heat({"day": 3, "unit": "C"})'
        f"<|endoftext|><|user|>tool: 21 of {call.id}<|endoftext|><|assistant|>",
        add_special_tokens=False,
    )
    assert chat(client, turns).usage.prompt_tokens == len(ids)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("template", "text"),
    [
        (LLAMA, '{"name": "heat", "parameters": {"day": 3, "unit": "C"}}'),
        (LLAMA, '<|python_tag|>{"name": "heat", "parameters": {"day": 3, "unit": "C"}}'),
        (MISTRAL, '[TOOL_CALLS] [{"name": "heat", "arguments": {"day": 3, "unit": "C"}}]'),
    ],
)
def test_calls_of_other_models(
    make_server: MakeServer, says: Says, template: str, text: str, stream: bool
) -> None:
    client = client_of(make_server(template))
    says(text)
    assert calls(client, stream) == ("", [HEAT_CALL], "tool_calls")
    other = "{1} is no call" if template == LLAMA else "no call"
    says(other)
    assert calls(client, stream) == (other, [], "stop")
    content, made, reason = calls(client, stream, tool_choice="required", max_tokens=1500)
    assert (content, len(made), reason) == ("", 1, "tool_calls")


STRANGE = HERMES.replace("<tool_call>", "<function=")


@pytest.mark.parametrize(
    ("template", "more", "param"),
    [
        (PLAIN, {}, "tools"),
        (STRANGE, {}, "tools"),
        (HERMES, {"tools": [ADD, ADD]}, "tools"),
        (HERMES, {"tools": [], "tool_choice": "required"}, "tool_choice"),
        (
            HERMES,
            {"tool_choice": {"type": "function", "function": {"name": "x"}}},
            "tool_choice",
        ),
        (HERMES, {"tools": [ADD] * 65}, "tools"),
        (HERMES, {"response_format": {"type": "json_object"}}, "response_format"),
        (
            HERMES,
            {
                "tool_choice": "required",
                "tools": [
                    {"type": "function", "function": {"name": "a", "parameters": {"not": {}}}}
                ],
            },
            "tools",
        ),
        (
            LLAMA,
            {"tools": [{"type": "function", "function": {"name": "a", "strict": True}}]},
            "tools",
        ),
    ],
)
def test_what_cannot_be_done_with_tools_is_refused(
    make_server: MakeServer, template: str, more: dict[str, Any], param: str
) -> None:
    client = client_of(make_server(template))
    with pytest.raises(openai.BadRequestError) as caught:
        chat(client, **{"tools": TOOLS, **more})
    assert caught.value.param == param


@pytest.mark.parametrize(
    "turn",
    [
        {"role": "user", "content": "a", "tool_call_id": "x"},
        {"role": "tool", "content": "a", "reasoning_content": "x"},
        {"role": "assistant"},
    ],
)
def test_a_turn_has_what_its_role_has(client: Any, turn: dict[str, Any]) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        chat(client, [*HELLO, turn])
    assert caught.value.param.startswith("messages.1")
