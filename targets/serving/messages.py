"""The turns of a conversation, as a client sends them and as a chat template reads them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from .failures import Rejected
from .fields import Fields

__all__ = ["OTHER_PART", "Message", "size_of", "turns_of"]

MOST_PARTS = 64
MOST_CALLS = 64
LONGEST_NAME = 64
OTHER_PART = "other_part"
"""The kind of fault of a part that is no text."""
Name = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)]


class TextPart(Fields):
    """A piece of a message's content."""

    type: Literal["text"]
    text: str

    @field_validator("type", mode="before")
    @classmethod
    def _is_text(cls, value: Any) -> Any:
        if isinstance(value, str) and value != "text":
            raise PydanticCustomError(
                OTHER_PART,
                "this server reads text only: leave out parts of the type `{type}`",
                {"type": value},
            )
        return value


class CalledFunction(Fields):
    """The function of a call, and its arguments as JSON."""

    name: Name
    arguments: str


class ToolCall(Fields):
    """A call of a tool that an earlier answer has."""

    id: Name
    type: Literal["function"] = "function"
    function: CalledFunction


class Message(Fields):
    """One turn of a conversation; `tool` is the result of a call."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: (
        str | Annotated[list[TextPart], Field(max_length=MOST_PARTS, fail_fast=True)] | None
    ) = Field(default=None, description="may be left out beside tool_calls")
    name: Name | None = Field(
        default=None, description="who speaks, if the model's template shows it"
    )
    tool_calls: Annotated[list[ToolCall], Field(max_length=MOST_CALLS)] | None = Field(
        default=None, description="the calls of an assistant's turn"
    )
    tool_call_id: Name | None = Field(default=None, description="the call of a tool's turn")
    reasoning_content: str | None = Field(
        default=None, description="the reasoning of an assistant's turn"
    )
    refusal: None = None

    @property
    def text(self) -> str:
        """The content as one text."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content or [])


def size_of(messages: Sequence[Message]) -> int:
    """The number of characters of messages."""
    return sum(
        len(message.text)
        + len(message.reasoning_content or "")
        + sum(len(call.function.arguments) for call in message.tool_calls or [])
        for message in messages
    )


def turns_of(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The turns that a chat template reads.

    Raises:
        Rejected: a turn has no content, or has what belongs to another role.
    """
    return [_turn(message, f"messages.{place}") for place, message in enumerate(messages)]


def _turn(message: Message, place: str) -> dict[str, Any]:
    """What a chat template reads of one turn."""
    # Templates know OpenAI's older name of this role.
    role = "system" if message.role == "developer" else message.role
    if message.content is None and not message.tool_calls:
        raise Rejected(
            400, f"{place}.content: it is missing", param=place, code="missing_required_parameter"
        )
    for field, wanted in (
        ("tool_calls", "assistant"),
        ("reasoning_content", "assistant"),
        ("tool_call_id", "tool"),
    ):
        if getattr(message, field) is not None and message.role != wanted:
            raise Rejected(
                400,
                f"{place}.{field}: only a message of the role `{wanted}` has it",
                param=f"{place}.{field}",
                code="invalid_value",
            )
    found: dict[str, Any] = {"role": role, "content": message.text}
    for field in ("name", "tool_call_id", "reasoning_content"):
        if (value := getattr(message, field)) is not None:
            found[field] = value
    if message.tool_calls:
        found["tool_calls"] = [_call(call) for call in message.tool_calls]
    return found


def _call(call: ToolCall) -> dict[str, Any]:
    """A call with its arguments as an object, which is what templates write."""
    try:
        arguments = json.loads(call.function.arguments)
    except (ValueError, RecursionError):
        arguments = call.function.arguments
    function = {"name": call.function.name, "arguments": arguments}
    return {"id": call.id, "type": "function", "function": function}
