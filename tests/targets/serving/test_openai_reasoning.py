"""Reasoning with the real `openai` client: apart from the answer, and within a budget."""

from __future__ import annotations

from typing import Any

import pytest

from openai_helpers import PLAIN, THINKS, MakeServer, Says, chat, client_of  # isort: skip
from server_helpers import Running  # isort: skip

pytest_plugins = ["openai_fixtures"]
TEMPLATE = THINKS
TEXT = "one and one\nmake two\n</think>\n\nIt is two"


def parts(client: Any, stream: bool, **more: Any) -> tuple[str, str, Any]:
    """The reasoning, the answer, and the last choice, whole or joined from a stream."""
    answer = chat(client, stream=stream, **more)
    choices = [one.choices[0] for one in answer] if stream else [answer.choices[0]]
    found = [choice.delta if stream else choice.message for choice in choices]
    reasoning = "".join(getattr(one, "reasoning_content", None) or "" for one in found)
    return reasoning, "".join(one.content or "" for one in found), choices[-1]


@pytest.mark.parametrize("stream", [False, True])
def test_25_reasoning_is_not_in_the_answer(client: Any, says: Says, stream: bool) -> None:
    says(TEXT)
    found = parts(client, stream, max_tokens=300)
    assert found[:2] == ("one and one\nmake two", "It is two")
    assert found[2].finish_reason == "stop"


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_may_open_its_reasoning_itself(
    make_server: MakeServer, says: Says, stream: bool
) -> None:
    client = client_of(make_server(PLAIN))
    says("<think>\n" + TEXT)
    assert parts(client, stream, max_tokens=300)[:2] == ("one and one\nmake two", "It is two")
    says("It is <think> two")
    assert parts(client, stream, max_tokens=300)[:2] == ("", "It is <think> two")


def test_a_stop_text_ends_the_answer_and_not_the_reasoning(client: Any, says: Says) -> None:
    says(TEXT)
    found = parts(client, False, max_tokens=300, stop=[" two", "one"])
    assert found[:2] == ("one and one\nmake two", "It is")


def test_reasoning_tokens_are_counted(client: Any, says: Says) -> None:
    says(TEXT)
    usage = chat(client, max_tokens=300).usage
    details = usage.completion_tokens_details
    scored = chat(client, max_tokens=300, logprobs=True).choices[0].logprobs.content
    place = [one.token for one in scored].index("</think>")
    assert (details.reasoning_tokens, len(scored)) == (place, usage.completion_tokens)


@pytest.mark.parametrize("budget", [0, 1, 5])
def test_26_a_budget_ends_the_reasoning(
    client: Any, says: Says, openai_server: Running, budget: int
) -> None:
    says("one two three four five six seven eight nine ten")
    vocabulary = openai_server.service.prompts.vocabulary
    script = vocabulary.encode("one two three four five six seven eight nine ten")
    answer = chat(client, max_tokens=300, extra_body={"max_thinking_tokens": budget})
    message, details = answer.choices[0].message, answer.usage.completion_tokens_details
    thought = vocabulary.decode(script[:budget])
    assert getattr(message, "reasoning_content", "") == thought
    # The closing tag takes the place of one token of the script.
    assert message.content == vocabulary.decode(script[budget + 1 :]).lstrip()
    assert details.reasoning_tokens == budget


def test_reasoning_within_its_budget_is_left_alone(client: Any, says: Says) -> None:
    says(TEXT)
    free = chat(client, max_tokens=300).choices
    assert chat(client, max_tokens=300, extra_body={"max_thinking_tokens": 200}).choices == free


def test_a_budget_holds_for_reasoning_that_the_answer_opens(
    make_server: MakeServer, says: Says
) -> None:
    client = client_of(make_server(PLAIN))
    more = {"max_tokens": 300, "extra_body": {"max_thinking_tokens": 3}}
    says("  <think> one two three four five six seven eight")
    message = chat(client, **more).choices[0].message
    assert message.reasoning_content
    assert message.content.endswith(" eight")
    says("one two three four five six seven eight")
    assert chat(client, **more).choices[0].message.content.startswith("one two three")


def test_json_comes_after_the_reasoning(client: Any, says: Says) -> None:
    says('one and one {}</think>{"sum": 2}')
    form = {"type": "json_object"}
    message = chat(client, max_tokens=300, response_format=form).choices[0].message
    assert (message.reasoning_content, message.content) == ("one and one {}", '{"sum": 2}')
    says("one and one")  # it would end in its reasoning
    more = {"extra_body": {"max_thinking_tokens": 30}, "response_format": form}
    message = chat(client, max_tokens=300, **more).choices[0].message
    assert message.reasoning_content.startswith("one and one")
    assert message.content.startswith("{")
