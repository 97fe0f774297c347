"""Requests and replies of the server: the supported part of OpenAI's completions API.

A request with an unknown field is refused.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model

from .options import ServeLimits

__all__ = [
    "ChatRequest",
    "CompletionRequest",
    "Failure",
    "Health",
    "Models",
    "Reply",
    "chat_request",
    "completion_request",
]


def _whole(value: Any) -> Any:
    """Accept JSON integers, also as 5.0, but not "5" or true."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    wrong_type = isinstance(value, str | bool)
    if wrong_type:  # pydantic reports a ValueError, and no TypeError
        raise ValueError("Input should be a valid integer")
    return value


WHOLE = BeforeValidator(_whole)
"""Comes after a field's limits, because only then the OpenAPI description shows the limits."""
Text = Annotated[str, Field(min_length=1)]
DEFAULT_NEW_TOKENS = 64
PROMPT = "text, or token ids"
STOP = "texts before which it ends"


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(default=None, description="name of the artifact; any other is 404")
    max_tokens: Annotated[int, Field(ge=1), WHOLE] = DEFAULT_NEW_TOKENS
    temperature: float = Field(
        default=0.0,
        ge=0,
        le=2,
        strict=True,
        allow_inf_nan=False,
        description="0: the most likely token",
    )
    top_p: float = Field(default=1.0, gt=0, le=1, strict=True)
    seed: Annotated[int, Field(ge=0, lt=2**31), WHOLE] = 0
    stream: bool = Field(default=False, strict=True)
    stop: Text | list[Text] | None = Field(default=None, description=STOP)


class CompletionRequest(_Request):
    """`POST /v1/completions`."""

    prompt: Text | list[int] = Field(description=PROMPT)


class Message(BaseModel):
    """One turn of a conversation."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "user", "assistant"]
    content: str


class ChatRequest(_Request):
    """`POST /v1/chat/completions`."""

    messages: list[Message] = Field(min_length=1)


def completion_request(vocab: int, context: int, limits: ServeLimits) -> type[CompletionRequest]:
    """`CompletionRequest` with the limits of one model and one server.

    Args:
        vocab: the model's vocabulary size.
        context: the most tokens of prompt and answer together.
        limits: the server's limits.
    """
    token: Any = Annotated[int, Field(ge=0, lt=vocab), WHOLE]
    tokens: Any = Annotated[
        list[token], Field(min_length=1, max_length=context - 1, fail_fast=True)
    ]
    text: Any = Annotated[str, Field(min_length=1, max_length=limits.max_prompt_characters)]
    prompt: Any = (text | tokens, Field(description=PROMPT))
    return create_model(
        "CompletionRequest", __base__=CompletionRequest, prompt=prompt, **_bounds(limits)
    )


def chat_request(limits: ServeLimits) -> type[ChatRequest]:
    """`ChatRequest` with the limits of one server."""
    messages: Any = (
        list[Message],
        Field(min_length=1, max_length=limits.max_messages, fail_fast=True),
    )
    return create_model("ChatRequest", __base__=ChatRequest, messages=messages, **_bounds(limits))


def _bounds(limits: ServeLimits) -> dict[str, Any]:
    """The fields that both requests share and that the server limits."""
    stop: Any = Annotated[str, Field(min_length=1, max_length=limits.max_stop_characters)]
    stops: Any = Annotated[list[stop], Field(max_length=limits.max_stops)]
    most = limits.max_new_tokens
    tokens: Any = Annotated[int, Field(ge=1, le=most), WHOLE]
    return {
        "max_tokens": (tokens, min(DEFAULT_NEW_TOKENS, most)),
        "stop": (stop | stops | None, Field(default=None, description=STOP)),
    }


class Usage(BaseModel):
    """Number of tokens in a request and in its answer."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Reply(BaseModel):
    """A whole answer.

    With `stream`, the parts of the answer are server-sent events without `usage`, and the last
    event is `[DONE]`.
    """

    id: str
    object: Literal["text_completion", "chat.completion"]
    created: int
    model: str
    choices: list[dict[str, Any]]
    usage: Usage


class Failure(BaseModel):
    """The reason why a request was not served."""

    error: dict[str, Any]


class Models(BaseModel):
    """The model that is served."""

    object: Literal["list"] = "list"
    data: list[dict[str, Any]]


class Health(BaseModel):
    """Whether the server accepts requests, and how many it is working on."""

    status: Literal["ok"]
    running: int
    waiting: int
