"""The turns of a conversation, as a client sends them and as a chat template reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Message", "turns_of"]

MOST_PARTS = 64
LONGEST_NAME = 64


class TextPart(BaseModel):
    """A piece of a message's content."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """One turn of a conversation."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(max_length=MOST_PARTS, fail_fast=True)]
    name: Annotated[str, Field(max_length=LONGEST_NAME)] | None = Field(
        default=None, description="who speaks, if the model's template shows it"
    )
    refusal: None = None

    @property
    def text(self) -> str:
        """The content as one text."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content)

    @property
    def turn(self) -> dict[str, Any]:
        """What a chat template reads."""
        # Templates know OpenAI's older name of this role.
        role = "system" if self.role == "developer" else self.role
        found: dict[str, Any] = {"role": role, "content": self.text}
        return found if self.name is None else {**found, "name": self.name}


def turns_of(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The turns that a chat template reads."""
    return [message.turn for message in messages]
