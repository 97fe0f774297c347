"""Replies of the server, for its OpenAPI description."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

__all__ = ["Failure", "Health", "Model", "Models", "Reply"]


class PromptDetails(BaseModel):
    """Kinds of tokens of a prompt: those whose keys and values were known from earlier."""

    cached_tokens: int


class AnswerDetails(BaseModel):
    """Kinds of tokens of an answer."""

    reasoning_tokens: int


class Usage(BaseModel):
    """Number of tokens in a request and in its answers."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: AnswerDetails


class Reply(BaseModel):
    """A whole answer.

    With `stream`, the parts of the answer are server-sent events, and the last event is `[DONE]`.
    Before it comes one with `usage`, if `stream_options.include_usage` is true.
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


class Model(BaseModel):
    """A model that is served; `created` is the time of the artifact, in seconds since 1970."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["edgewright"] = "edgewright"


class Models(BaseModel):
    """The models that are served: one."""

    object: Literal["list"] = "list"
    data: list[Model]


class Health(BaseModel):
    """Whether the server accepts requests, and how many it is working on."""

    status: Literal["ok"]
    running: int
    waiting: int
