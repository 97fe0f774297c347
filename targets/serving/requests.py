"""Requests that the server reads: the supported part of OpenAI's completions and chat API.

What is not supported is refused by name. A field with the value null is as if it were not there.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, create_model

from .fields import Fields
from .messages import Message
from .options import ServeLimits
from .preferences import Preferences
from .tools import ResponseFormat, Tool, ToolChoice

__all__ = [
    "MOST_LOGPROBS",
    "NEUTRAL_ONLY",
    "ChatRequest",
    "CompletionRequest",
    "chat_request",
    "completion_request",
]

MOST_LOGPROBS = 20
"""The most alternatives of a token whose log probabilities are given: OpenAI's own limit."""
MOST_BIASES = 300
"""The most tokens with a `logit_bias`: OpenAI's own limit."""
MOST_LABELS = 16
"""The most entries of `metadata`, and the most characters of their names and values: as OpenAI."""
LONGEST_KEY = 64
LONGEST_LABEL = 512
DEFAULT_NEW_TOKENS = 64
PROMPT = "text, or token ids, or several of either"
STOP = "texts before which it ends"
BIAS = "added to the logits of these tokens, which are named by their ids"
LABEL = "a label; it changes nothing"


def _whole(value: Any) -> Any:
    """Accept JSON integers, also as 5.0, but not "5" or true."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    wrong_type = isinstance(value, str | bool)
    if wrong_type:  # pydantic reports a ValueError, and no TypeError
        raise ValueError("Input should be a valid integer")
    return value


def _flag(value: Any) -> Any:
    """Accept JSON's true and false, but not 0, which Python takes for false."""
    if value is not None and not isinstance(value, bool):
        raise ValueError("Input should be a valid boolean")
    return value


WHOLE = BeforeValidator(_whole)
"""Comes after a field's limits, because only then the OpenAPI description shows the limits."""
Text = Annotated[str, Field(min_length=1)]
Flag = Annotated[bool, Field(strict=True)]
Off = Annotated[Literal[False], BeforeValidator(_flag)]
Penalty = Annotated[float, Field(ge=-2, le=2, strict=True)]
Bias = Annotated[float, Field(ge=-100, le=100, strict=True)]
Label = Annotated[str, Field(max_length=LONGEST_LABEL)]
Labels = Annotated[
    dict[Annotated[str, Field(max_length=LONGEST_KEY)], Label], Field(max_length=MOST_LABELS)
]
One = Annotated[Literal[1], WHOLE]
Alternatives = Annotated[int, Field(ge=0, le=MOST_LOGPROBS), WHOLE]


class StreamOptions(Fields):
    """What a stream has beside the answer."""

    include_usage: Flag | None = Field(
        default=None, description="a last event with the number of tokens"
    )
    include_obfuscation: Off | None = None


class _Request(Fields):
    model: str | None = Field(default=None, description="name of the artifact; any other is 404")
    max_tokens: Annotated[int, Field(ge=1), WHOLE] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, strict=True, allow_inf_nan=False)] | None = (
        Field(default=None, description="0, the default: the most likely token")
    )
    top_p: Annotated[float, Field(gt=0, le=1, strict=True)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63), WHOLE] | None = Field(
        default=None, description="default 0: the same request has the same answer"
    )
    n: Annotated[int, Field(ge=1), WHOLE] | None = Field(
        default=None, description="answers to one prompt; number i is drawn with seed + i"
    )
    stream: Flag | None = None
    stream_options: StreamOptions | None = None
    stop: Text | list[Text] | None = Field(default=None, description=STOP)
    frequency_penalty: Penalty | None = Field(
        default=None, description="taken off the logit of a token for each time the answer has it"
    )
    presence_penalty: Penalty | None = Field(
        default=None, description="taken off the logit of a token that the answer has"
    )
    logit_bias: dict[int, Bias] | None = Field(default=None, description=BIAS)
    repetition_penalty: One | None = None
    ignore_eos: Flag | None = Field(
        default=None, description="true: tokens that end an answer do not; for measurements"
    )
    user: Label | None = Field(default=None, description=LABEL)
    safety_identifier: Label | None = Field(default=None, description=LABEL)
    prompt_cache_key: Label | None = Field(default=None, description=LABEL)

    @property
    def stops(self) -> list[str]:
        """The stop texts."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def preferences(self) -> Preferences:
        """What makes tokens more or less likely."""
        return Preferences(
            self.frequency_penalty or 0.0, self.presence_penalty or 0.0, self.logit_bias or {}
        )

    @property
    def with_usage(self) -> bool:
        """Whether a stream has a last event with the number of tokens."""
        return bool(self.stream_options and self.stream_options.include_usage)


class CompletionRequest(_Request):
    """`POST /v1/completions`."""

    prompt: Text | list[int] | list[Text] | list[list[int]] = Field(description=PROMPT)
    logprobs: Alternatives | None = Field(
        default=None, description="log probabilities of the tokens and of so many alternatives"
    )
    best_of: One | None = None
    echo: Off | None = None

    @property
    def most_tokens(self) -> int | None:
        """The most tokens of an answer; None: as many as the server allows."""
        return self.max_tokens or DEFAULT_NEW_TOKENS

    @property
    def alternatives(self) -> int | None:
        """Alternatives of a token with log probabilities; None: no log probabilities."""
        return self.logprobs


class ChatRequest(_Request):
    """`POST /v1/chat/completions`."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: Annotated[int, Field(ge=1), WHOLE] | None = Field(
        default=None, description="the newer name of max_tokens"
    )
    logprobs: Flag | None = None
    top_logprobs: Alternatives | None = None
    max_thinking_tokens: Annotated[int, Field(ge=0), WHOLE] | None = Field(
        default=None, description="after so many tokens of reasoning its closing tag is forced"
    )
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = Field(
        default=None, description="default: auto if there are tools"
    )
    parallel_tool_calls: Flag | None = Field(
        default=None, description="false: the answer ends after the first call"
    )
    response_format: ResponseFormat | None = None
    service_tier: Literal["auto", "default"] | None = None
    metadata: Labels | None = Field(default=None, description=LABEL)
    store: Flag | None = Field(
        default=None, description="changes nothing: this server keeps no answers"
    )

    @property
    def most_tokens(self) -> int | None:
        """The most tokens of an answer; None: as many as the server allows."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def alternatives(self) -> int | None:
        """Alternatives of a token with log probabilities; None: no log probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None


NEUTRAL_ONLY = frozenset(
    ("best_of", "echo", "include_obfuscation", "repetition_penalty", "service_tier")
)
"""Fields whose values are accepted only if they change nothing."""


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
    several = Field(min_length=1, max_length=limits.max_choices, fail_fast=True)
    texts: Any = Annotated[list[text], several]
    rows: Any = Annotated[list[tokens], several]
    prompt: Any = (text | tokens | texts | rows, Field(description=PROMPT))
    return create_model(
        "CompletionRequest", __base__=CompletionRequest, prompt=prompt, **_bounds(vocab, limits)
    )


def chat_request(vocab: int, limits: ServeLimits) -> type[ChatRequest]:
    """`ChatRequest` with the limits of one model and one server; see `completion_request`."""
    turns = Field(min_length=1, max_length=limits.max_messages, fail_fast=True)
    thinking: Any = Annotated[int, Field(ge=0, le=limits.max_new_tokens), WHOLE]
    tools: Any = Annotated[list[Tool], Field(max_length=limits.max_tools, fail_fast=True)]
    fields = _bounds(vocab, limits)
    fields |= {
        "messages": (list[Message], turns),
        "max_completion_tokens": fields["max_tokens"],
        "max_thinking_tokens": (thinking | None, None),
        "tools": (tools | None, None),
    }
    return create_model("ChatRequest", __base__=ChatRequest, **fields)


def _bounds(vocab: int, limits: ServeLimits) -> dict[str, Any]:
    """The fields that both requests share and that the model or the server limits."""
    token: Any = Annotated[int, Field(ge=0, lt=vocab)]
    biases: Any = Annotated[dict[token, Bias], Field(max_length=MOST_BIASES)]
    stop: Any = Annotated[str, Field(min_length=1, max_length=limits.max_stop_characters)]
    stops: Any = Annotated[list[stop], Field(max_length=limits.max_stops)]
    tokens: Any = Annotated[int, Field(ge=1, le=limits.max_new_tokens), WHOLE]
    choices: Any = Annotated[int, Field(ge=1, le=limits.max_choices), WHOLE]
    return {
        "max_tokens": (tokens | None, None),
        "n": (choices | None, None),
        "stop": (stop | stops | None, Field(default=None, description=STOP)),
        "logit_bias": (biases | None, Field(default=None, description=BIAS)),
    }
