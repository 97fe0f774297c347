"""How models write calls of tools: one row for each way, and how a chat template shows its own."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

__all__ = ["FORMATS", "Call", "CallFormat", "calls_in", "format_of"]


class Call(NamedTuple):
    """A call of a tool: its name, and its arguments as JSON."""

    name: str
    arguments: str


@dataclass(frozen=True)
class CallFormat:
    """How a family of models writes calls.

    Attributes:
        name: what users call it.
        sign: a text that only templates of such models have.
        mark: begins a call, or a list of calls.
        end: ends it; empty: the end of the answer does.
        space: what models write after the mark and before the end.
        arguments: the name of the arguments in a call.
        listed: whether a call is an entry of a list.
        bare: whether an answer that begins with an object is a call too, without a mark.
    """

    name: str
    sign: str
    mark: str
    end: str = ""
    space: str = ""
    arguments: str = "arguments"
    listed: bool = False
    bare: bool = False

    @property
    def opening(self) -> str:
        """What a forced call begins with."""
        return "" if self.bare else self.mark + self.space

    @property
    def closing(self) -> str:
        """What a forced call ends with."""
        return self.space + self.end

    def schema(self, tools: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """The JSON schema of one call of one of these tools.

        Args:
            tools: the schema of the arguments of each tool.
        """
        calls = [
            {
                "type": "object",
                "properties": {"name": {"const": name}, self.arguments: parameters},
                "required": ["name", self.arguments],
                "additionalProperties": False,
            }
            for name, parameters in tools.items()
        ]
        call: dict[str, Any] = calls[0] if len(calls) == 1 else {"anyOf": calls}
        if self.listed:
            return {"type": "array", "items": call, "minItems": 1, "maxItems": 1}
        return call


FORMATS = (
    CallFormat("Hermes and Qwen", "<tool_call>", "<tool_call>", "</tool_call>", "\n"),
    CallFormat(
        "Llama 3.1",
        '{"name": function name, "parameters": ',
        "<|python_tag|>",
        arguments="parameters",
        bare=True,
    ),
    CallFormat("Mistral", "[TOOL_CALLS]", "[TOOL_CALLS]", listed=True),
)
OTHER_SIGNS = ("<function=", "<arg_key>", "[ARGS]", "<｜tool▁calls▁begin｜>")
"""Of ways that are not read here, although their templates have a sign of one that is."""
SEPARATORS = " \t\r\n,;"


def format_of(template: str) -> CallFormat | None:
    """The way in which a model with this chat template writes calls; None: it is not known."""
    if any(sign in template for sign in OTHER_SIGNS):
        return None
    return next((one for one in FORMATS if one.sign in template), None)


def calls_in(text: str, format: CallFormat, tools: Collection[str]) -> list[Call]:
    """The calls in a text that has nothing else; none if it has something else.

    Args:
        text: what the model wrote, without the mark and the end.
        format: how it writes calls.
        tools: names of the tools that it may call.
    """
    try:
        found = [_call(value, format, tools) for value in _values(text)]
    except (ValueError, RecursionError):
        return []
    return found


def _values(text: str) -> Iterator[Any]:
    """The JSON objects in a text, also those in lists."""
    decoder = json.JSONDecoder()
    place = 0
    while rest := text[place:].lstrip(SEPARATORS):
        value, size = decoder.raw_decode(rest)
        place = len(text) - len(rest) + size
        yield from cast(Sequence[Any], value) if isinstance(value, list) else [value]


def _call(value: Any, format: CallFormat, tools: Collection[str]) -> Call:
    """A JSON value as a call.

    Raises:
        ValueError: it is none.
    """
    fields = cast(dict[str, Any], value) if isinstance(value, dict) else {}
    arguments = fields.get(format.arguments, {})
    if isinstance(arguments, str):
        arguments = json.loads(arguments)
    if fields.get("name") not in tools or not isinstance(arguments, dict):
        raise ValueError("no call of a tool")
    return Call(fields["name"], json.dumps(arguments, ensure_ascii=False))
