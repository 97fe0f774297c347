"""What a chat request says about tools and about the format of its answer."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from .fields import Fields

__all__ = ["NamedChoice", "ResponseFormat", "Tool", "ToolChoice"]

Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]


class Function(Fields):
    """A function that the model may call."""

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = Field(
        default=None, description="JSON schema of the arguments; default: no arguments"
    )
    strict: Annotated[bool, Field(strict=True)] | None = Field(
        default=None, description="the arguments follow the schema, whatever the model prefers"
    )

    @property
    def arguments(self) -> dict[str, Any]:
        """The JSON schema of the arguments."""
        return self.parameters or {
            "type": "object",
            "properties": {},
            "additionalProperties": False,
        }


class Tool(Fields):
    """A tool."""

    type: Literal["function"]
    function: Function


class ChosenFunction(Fields):
    """The name of a function."""

    name: Name


class NamedChoice(Fields):
    """The function that must be called."""

    type: Literal["function"]
    function: ChosenFunction


ToolChoice = Literal["none", "auto", "required"] | NamedChoice


class Schema(Fields):
    """A JSON schema and its name; it is always followed, also if `strict` is false."""

    name: Name
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: Annotated[bool, Field(strict=True)] | None = None


class TextFormat(Fields):
    """Any text."""

    type: Literal["text"]


class ObjectFormat(Fields):
    """A JSON object."""

    type: Literal["json_object"]


class SchemaFormat(Fields):
    """JSON in a schema."""

    type: Literal["json_schema"]
    json_schema: Schema


ResponseFormat = Annotated[TextFormat | ObjectFormat | SchemaFormat, Field(discriminator="type")]
