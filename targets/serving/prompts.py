"""What a request asks the model: its prompts as tokens, made with the model's chat template."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ...checkpoints.config import end_tokens
from ...checkpoints.tokenizer import load_tokenizer
from .answer_rules import AnswerRules, offered_tools
from .failures import Rejected
from .grammar import Grammars
from .guide import Guide
from .messages import Message, size_of, turns_of
from .options import ServeLimits
from .reasoning import opens_reasoning
from .requests import ChatRequest, CompletionRequest
from .tool_calls import ToolCalls
from .vocabulary import Vocabulary

__all__ = ["Prepared", "Prompts"]


@dataclass(frozen=True)
class Prepared:
    """A request that was read.

    Attributes:
        prompts: token ids; one prompt of a chat, or several of a completion.
        reasons: whether the prompt opens the reasoning, so that the answer begins with it.
        guide: makes the guide of an answer.
        calls: makes what takes calls of tools out of an answer.
    """

    prompts: list[list[int]]
    reasons: bool = False
    guide: Callable[[], Guide | None] = lambda: None
    calls: Callable[[], ToolCalls | None] = lambda: None


class Prompts:
    """Makes prompts from requests, with the tokenizer and the template of an artifact.

    Args:
        artifact: directory of the artifact.
        size: number of logits of a position.
        context: the most tokens of prompt and answer together.
        limits: what one request may ask for.
    """

    def __init__(self, artifact: Path, size: int, context: int, limits: ServeLimits) -> None:
        self._tokenizer: Any = load_tokenizer(artifact)
        self._context = context
        self._limits = limits
        self.vocabulary = Vocabulary(self._tokenizer)
        ends = frozenset(end_tokens(artifact))
        grammars = Grammars(self._tokenizer, size, ends, limits.max_schema_bytes)
        self._rules = AnswerRules(self.vocabulary, grammars, size, ends)

    def prepared(self, request: CompletionRequest | ChatRequest) -> Prepared:
        """Read a request. This may take long, and belongs into a thread of its own.

        Raises:
            Rejected: a prompt is too long or empty, or leaves no room in the context for an answer;
                fields contradict each other; the chat template does not accept the messages.
        """
        _check_fields(request)
        if isinstance(request, CompletionRequest):
            return self._completion(request)
        return self._chat(request)

    def _completion(self, request: CompletionRequest) -> Prepared:
        prompt = request.prompt
        one = isinstance(prompt, str) or isinstance(prompt[0], int)
        rows = cast(list[str | list[int]], [prompt] if one else prompt)
        ids = [self.vocabulary.encode(row) if isinstance(row, str) else row for row in rows]
        answers = len(ids) * (request.n or 1)
        if answers > self._limits.max_choices:
            raise Rejected(
                400,
                f"{len(ids)} prompts with n={request.n} are {answers} answers, and a request may "
                f"have {self._limits.max_choices}",
                param="n",
                code="invalid_value",
            )
        return Prepared([self._fitting(one, "prompt") for one in ids])

    def _chat(self, request: ChatRequest) -> Prepared:
        tools = [tool.model_dump(exclude_none=True) for tool in offered_tools(request)]
        template = self._template(tools)
        calls = self._rules.calls(request, template)
        text = self._rendered(request.messages, tools)
        ids = self._fitting(self.vocabulary.encode(text, add_special_tokens=False), "messages")
        reasons = opens_reasoning(text)
        return Prepared([ids], reasons, self._rules.guide(request, template, reasons), calls)

    def _template(self, tools: list[dict[str, Any]]) -> str:
        """The chat template as it is written; empty if there is none."""
        try:
            return str(self._tokenizer.get_chat_template(tools=tools or None))
        except ValueError:
            return ""

    def _rendered(self, messages: Sequence[Message], tools: list[dict[str, Any]]) -> str:
        """The messages as one text."""
        most = self._limits.max_prompt_characters
        turns = turns_of(messages)
        if size_of(messages) + len(json.dumps(tools)) > most:
            raise Rejected(
                400,
                f"messages and tools have more than {most} characters",
                param="messages",
                code="string_above_max_length",
            )
        try:
            return self._tokenizer.apply_chat_template(
                turns, tools=tools or None, tokenize=False, add_generation_prompt=True
            )
        except Exception as error:  # a template belongs to the model and may raise any exception
            raise Rejected(
                400,
                f"the model's chat template does not accept these messages: {error}",
                param="messages",
            ) from error

    def _fitting(self, ids: list[int], field: str) -> list[int]:
        """A prompt that leaves room in the context."""
        if not ids:
            raise Rejected(400, "the prompt has no tokens", param=field)
        if len(ids) >= self._context:
            raise Rejected(
                400,
                f"the prompt has {len(ids)} tokens, and the context is {self._context}",
                param=field,
                code="context_length_exceeded",
            )
        return ids


def _check_fields(request: CompletionRequest | ChatRequest) -> None:
    """Refuse fields that contradict each other."""
    if request.stream_options and not request.stream:
        _refuse("stream_options", "it needs `stream`")
    if isinstance(request, CompletionRequest):
        return
    format = request.response_format
    if request.ignore_eos and (request.tools or (format and format.type != "text")):
        _refuse("ignore_eos", "an answer in a format, or with tools, has an end of its own")
    if request.top_logprobs is not None and not request.logprobs:
        _refuse("top_logprobs", "it needs `logprobs`")
    if request.max_tokens is not None and request.max_completion_tokens is not None:
        _refuse("max_completion_tokens", "`max_tokens` is its older name: give one of them")


def _refuse(field: str, reason: str) -> None:
    raise Rejected(400, f"{field}: {reason}", param=field, code="invalid_value")
