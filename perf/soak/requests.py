"""What honest clients of the soak test ask for: texts, chats, conversations, JSON, and calls."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

__all__ = ["CHAT", "COMPLETIONS", "TOOL_TEMPLATE", "Request", "requests"]

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
PROMPTS = 12
"""Prompts of each kind."""
TOOL_TEMPLATE = (
    "{% if tools %}<|user|>Tools: {{ tools | tojson }} Write <tool_call>JSON</tool_call>."
    "<|endoftext|>{% endif %}{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}"
    "<|endoftext|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""A chat template with tools, for a model whose own has none."""
RULES = (
    "You are a careful assistant in a shop that sells apples and pears. Count what is there, add "
    "what comes, take off what goes, and answer with one number and nothing else."
)
"""Many requests begin with it, so that they can reuse each other's prompts."""
SUM = {
    "type": "object",
    "properties": {
        "sum": {"type": "integer", "minimum": 0, "maximum": 99},
        "unit": {"enum": ["apples", "pears"]},
    },
    "required": ["sum", "unit"],
    "additionalProperties": False,
}
LONG_EVERY = 4
"""JSON and calls are asked for with every so many prompts: their answers are ten times as long."""
LONGEST_JSON = 150
"""Tokens of an answer in a format; a model that has not learned it writes spaces, too."""


class Request(NamedTuple):
    """A request: its kind for the table, its path, and its body."""

    kind: str
    path: str
    body: dict[str, Any]


def requests() -> list[Request]:
    """Each request that honest clients choose from, as one answer and as a stream."""
    found: list[Request] = []
    for number in range(PROMPTS):
        for kind, path, body in _kinds(number):
            found.append(Request(f"{kind}, whole", path, {**body, "stream": False}))
            streamed = {**body, "stream": True, "stream_options": {"include_usage": True}}
            found.append(Request(f"{kind}, stream", path, streamed))
    return found


def _kinds(number: int) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """The kinds of requests about one question."""
    text = f"Tom has {number + 2} apples and buys {number + 3} more. How many has he?"
    turns = [{"role": "user", "content": text}]
    short = {"max_tokens": 8 + number}
    long = {"max_tokens": LONGEST_JSON, "temperature": 1.0, "seed": number}
    yield "completion", COMPLETIONS, {"prompt": text, **short}
    yield "chat", CHAT, {"messages": turns, **short}
    yield "conversation", CHAT, {"messages": [*_history(number), *turns], **short}
    if number % LONG_EVERY:
        return
    schema = {"type": "json_schema", "json_schema": {"name": "sum", "schema": SUM}}
    yield "JSON", CHAT, {"messages": turns, "response_format": schema, **long}
    tool = {"type": "function", "function": {"name": "count", "parameters": SUM}}
    yield "tools", CHAT, {"messages": turns, "tools": [tool], "tool_choice": "required", **long}


def _history(number: int) -> list[dict[str, str]]:
    """The beginning of a conversation. One with more turns begins like one with fewer."""
    turns = [{"role": "system", "content": RULES}]
    for past in range(number % 4):
        turns.append({"role": "user", "content": f"Ann has {past + 4} pears and sells one."})
        turns.append({"role": "assistant", "content": str(past + 3)})
    return turns
